"""Sequences laid end to end: the parts that every packed encoder shares.

Linear layers, norms and activations run on [T, hidden] with T the tokens of a block, so nothing is spent on
padding. Attention runs on groups of sequences of one length, which are contiguous because batches are sorted by
length: a group is a [count, heads, length, head_dim] view that needs no mask.

On a CPU a batch is several blocks, small enough for their activations to stay in the cache; see packed_encoder.py.
On a GPU it is one, whose attention is one kernel for all lengths where torch has it (Dao 2023, arXiv:2307.08691).

Rows are filled up to a multiple of ROWS. oneDNN makes, and keeps, kernels and buffers for each number of rows that it
meets: left to the texts, that is some thousand numbers and gigabytes in a long run.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from transformers.activations import GELUActivation

from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import on_device

ROWS = 32
BLOCK_TOKENS = 1024  # of a block on a CPU, or one sequence that is longer


@dataclass(frozen=True)
class Block:
    """Sequences on the device. The last rows may be filling, which belongs to no group."""

    ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64, 0 at the start of each sequence
    types: torch.Tensor | None  # [T] int64, which of two texts a token is of; None: 0 for all
    tokens: int  # those that are no filling
    groups: tuple[tuple[int, int, int], ...]  # (first token, sequences, their length), in order
    bounds: torch.Tensor | None = None  # [n + 1] int32 on a GPU: where sequences begin and end, filling as the last
    longest: int = 0  # tokens of a sequence


@dataclass(frozen=True)
class Norm:
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    @classmethod
    def of(cls, module: torch.nn.LayerNorm) -> "Norm":
        return cls(module.weight, module.bias, module.eps)


def exact_gelu(activation: object) -> bool:
    """Whether a model's activation is the GELU that linear layers fuse."""
    if isinstance(activation, GELUActivation):
        return activation.act is F.gelu
    return isinstance(activation, torch.nn.GELU) and activation.approximate == "none"


def blocks(sequences: TokenSequences, device: str) -> list[Block]:
    """Brings sequences, longest first, to the device: as one block to a GPU, to a CPU as several."""
    ends = block_ends(sequences.offsets[1:]) if device == "cpu" else [len(sequences)]
    return [_block(sequences, first, end, device) for first, end in zip([0, *ends], ends, strict=False)]


def block_ends(tokens: np.ndarray) -> list[int]:
    """Where blocks of at most BLOCK_TOKENS tokens end, so that little of them is filling.

    `tokens`: [n] those up to and with each sequence. Returns how many sequences stand before each end; a sequence
    longer than a block is one alone.
    """
    ends: list[int] = []
    first = done = 0
    while first < len(tokens):
        most = max(int(np.searchsorted(tokens, done + BLOCK_TOKENS, side="right")), first + 1)
        if most < len(tokens):
            least = max(int(np.searchsorted(tokens, done + BLOCK_TOKENS * 3 // 4)), first) + 1
            sizes = tokens[least - 1 : most] - done  # of the blocks that may be made: the fullest of them
            most -= int(np.argmin((-sizes % ROWS / sizes)[::-1])) if len(sizes) else 0
        ends.append(most)
        first, done = most, int(tokens[most - 1])
    return ends


def _block(sequences: TokenSequences, first: int, end: int, device: str) -> Block:
    part = sequences.slice(first, end)
    tokens = len(part.ids)
    positions = np.arange(tokens) - np.repeat(part.offsets[:-1], part.lengths)
    ids, positions, *types = (
        on_device(filled(numbers.astype(np.int64)), device)
        for numbers in (part.ids, positions, *(() if part.types is None else (part.types,)))
    )
    block = Block(ids, positions, types[0] if types else None, tokens, tuple(part.groups()))
    if device == "cpu":
        return block
    bounds = part.offsets if len(ids) == tokens else np.append(part.offsets, len(ids))
    longest = max(int(part.lengths[0]), len(ids) - tokens)
    return replace(block, bounds=on_device(bounds.astype(np.int32), device), longest=longest)


def filled(numbers: np.ndarray) -> np.ndarray:
    """`numbers` [n] and zeros, to a multiple of ROWS."""
    return np.pad(numbers, (0, -len(numbers) % ROWS))


def attend(qkv: torch.Tensor, block: Block, window: int | None = None) -> torch.Tensor:
    """Bidirectional attention within each sequence: [T, 3, heads, head_dim] to [T, heads × head_dim].

    With `window`, a token sees those at most `window` positions away.
    """
    tokens, _, heads, dim = qkv.shape
    everything = window is None or block.longest <= window + 1
    if block.bounds is not None and everything and has_flash_attention(qkv.device, qkv.dtype, dim):
        return flash_attention(qkv, block.bounds, block.longest).view(tokens, -1)
    out = qkv.new_empty(tokens, heads, dim)
    for first, count, length in block.groups:
        span = slice(first, first + count * length)
        # [3, count, heads, length, head_dim]
        q, k, v = qkv[span].view(count, length, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        mask = _window_mask(length, window, qkv.device) if window is not None and length > window + 1 else None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out[span].view(count, length, heads, dim).copy_(mixed.transpose(1, 2))
    out[block.tokens :] = 0  # filling: whatever lies in memory may be no number, which is slow
    return out.view(tokens, heads * dim)


def flash_attention(qkv: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
    """Attention within each sequence, in one kernel for all lengths: [T, 3, heads, head_dim] to [T, heads, head_dim].

    `bounds`: [n + 1] int32, where sequences begin and end. It is the operator behind torch.nn.attention.varlen, whose
    import takes a second.
    """
    operator, (query, key, value) = torch.ops.aten._flash_attention_forward, qkv.unbind(1)
    mixed: torch.Tensor = operator(query, key, value, bounds, bounds, longest, longest, 0.0, False, False)[0]
    return mixed


@cache
def has_flash_attention(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether `flash_attention` runs there, for heads of `width`, and gives the right thing."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    lengths = (17, 3)
    with torch.inference_mode():
        numbers = torch.linspace(-2.0, 2.0, 3 * sum(lengths) * 2 * width, device=device).mul(99).sin()
        qkv = numbers.view(sum(lengths), 3, 2, width).to(dtype)
        try:
            got = flash_attention(qkv, torch.tensor([0, 17, 20], dtype=torch.int32, device=device), max(lengths))
        except (RuntimeError, TypeError):  # an older GPU, a width that the kernel does not know, another torch
            return False
        apart = [F.scaled_dot_product_attention(*part.permute(1, 2, 0, 3)) for part in qkv.split(lengths)]
        wanted = torch.cat(apart, dim=1).transpose(0, 1)  # [T, 2, width]
        return bool(torch.allclose(got.float(), wanted.float(), atol=0.05))


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """[length, length] bool, True where a token may look."""
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() <= window
