"""Sequences laid end to end: the parts that every packed encoder shares.

Linear layers, norms and activations run on [T, hidden] with T the tokens of a block, so nothing is spent on
padding.

On a CPU a batch is several blocks, small enough for their activations to stay in the cache; see packed_encoder.py.
On a GPU it is one. Attention is in packed_attention.py.

Rows are filled up to a multiple of ROWS. oneDNN makes, and keeps, kernels and buffers for each number of rows that it
meets: left to the texts, that is some thousand numbers and gigabytes in a long run.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.models import native
from secbatch.models.sequences import TokenSequences
from secbatch.models.sum_norm import sum_norm
from secbatch.models.transfer import on_device

ROWS = 32
BLOCK_TOKENS = 2048  # the most of a block on a CPU, unless a sequence is longer
LEAST_TOKENS = 512  # of a block that is made smaller for the sake of streams: fewer rows cost products their speed


@dataclass(frozen=True)
class Block:
    """Sequences on the device. The last rows may be filling, which belongs to no group."""

    ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64, 0 at the start of each sequence; see `blocks`
    types: torch.Tensor | None  # [T] int64, which of two texts a token is of; None: 0 for all
    tokens: int  # those that are no filling
    groups: tuple[tuple[int, int, int], ...]  # (first token, sequences, their length), in order
    bounds: torch.Tensor | None = None  # [n + 1] int32: where sequences begin and end; None: only groups are looked at
    longest: int = 0  # no sequence has more tokens
    neighbours: bool = True  # whether a sequence that is no numbers may spoil another one: packed_attention_groups.py


@dataclass(frozen=True)
class Norm:
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    @property
    def adds(self) -> bool:
        """Whether `of_sum` is one pass over memory, whose sums are not rounded."""
        return self.weight is not None and self.bias is not None and sum_norm(self.weight) is not None

    def of_sum(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The norm of x + residual [T, width]."""
        if self.weight is not None and self.bias is not None and (in_one_pass := sum_norm(self.weight)):
            return in_one_pass(x, residual, self.weight, self.bias, self.eps)
        return self(x + residual)

    @classmethod
    def of(cls, module: torch.nn.LayerNorm) -> "Norm":
        return cls(module.weight, module.bias, module.eps)


def exact_gelu(activation: object) -> bool:
    """Whether a model's activation is the GELU that linear layers fuse."""
    if type(activation).__name__ == "GELUActivation":  # transformers', whose import brings in all of its modelling code
        return getattr(activation, "act", None) is F.gelu
    return isinstance(activation, torch.nn.GELU) and activation.approximate == "none"


def blocks(sequences: TokenSequences, device: str, placeless: int | None = None) -> list[Block]:
    """Brings sequences, longest first, to the device: as one block to a GPU, to a CPU as several.

    `placeless`: a token whose position is always 0, for all others positions count from 1 and leave it out.
    """
    if device == "cpu":  # attention of long sequences goes another way: beside them short ones would have other bits
        size = block_size(len(sequences.ids), torch.get_num_threads())
        long = int((sequences.lengths > native.LONGEST).sum())
        ends = [*block_ends(sequences.offsets[1 : long + 1], size)]
        ends += [long + end for end in block_ends(sequences.offsets[long + 1 :] - sequences.offsets[long], size)]
    else:
        ends = [len(sequences)]
    return [_block(sequences, first, end, device, placeless) for first, end in zip([0, *ends], ends, strict=False)]


def block_size(tokens: int, threads: int) -> int:
    """Tokens of the blocks of a batch on a CPU: four for each thread, which need not be through at the same time.

    A block is one stream's (streams.py), so its part of a cache is what all threads' part of a block would be.
    """
    if threads == 1:
        return BLOCK_TOKENS
    return min(max(tokens // (4 * threads), LEAST_TOKENS), max(BLOCK_TOKENS // 2, 1))


def block_ends(tokens: np.ndarray, size: int) -> list[int]:
    """Where blocks of at most `size` tokens end, so that little of them is filling.

    `tokens`: [n] those up to and with each sequence. Returns how many sequences stand before each end; a sequence
    longer than a block is one alone.
    """
    ends: list[int] = []
    first = done = 0
    while first < len(tokens):
        most = max(int(np.searchsorted(tokens, done + size, side="right")), first + 1)
        if most < len(tokens):
            least = max(int(np.searchsorted(tokens, done + size * 3 // 4)), first) + 1
            sizes = tokens[least - 1 : most] - done  # of the blocks that may be made: the fullest of them
            most -= int(np.argmin((-sizes % ROWS / sizes)[::-1])) if len(sizes) else 0
        ends.append(most)
        first, done = most, int(tokens[most - 1])
    return ends


def _block(sequences: TokenSequences, first: int, end: int, device: str, placeless: int | None) -> Block:
    part = sequences.slice(first, end)
    tokens = len(part.ids)
    places = _positions(part, placeless)
    ids, positions, *types = (
        on_device(filled(numbers.astype(np.int64)), device)
        for numbers in (part.ids, places, *(() if part.types is None else (part.types,)))
    )
    bounds = on_device(part.offsets.astype(np.int32), device)
    groups, longest = tuple(part.groups()), int(part.lengths[0])
    return Block(ids, positions, types[0] if types else None, tokens, groups, bounds, longest)


def _positions(part: TokenSequences, placeless: int | None) -> np.ndarray:
    """[T] int64"""
    positions = np.arange(len(part.ids)) - np.repeat(part.offsets[:-1], part.lengths)
    if placeless is None:
        return positions
    counted = part.ids != placeless
    if counted.all():
        return positions + 1
    before = np.append(0, np.cumsum(counted))
    return np.where(counted, before[1:] - np.repeat(before[part.offsets[:-1]], part.lengths), 0)


def filled(numbers: np.ndarray) -> np.ndarray:
    """`numbers` [n] and zeros, to a multiple of ROWS."""
    return np.pad(numbers, (0, -len(numbers) % ROWS))
