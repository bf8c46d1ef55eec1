"""Sequences laid end to end: the parts that every packed encoder shares.

Linear layers, norms and activations run on [T, hidden] with T the tokens of a whole batch, so nothing is
spent on padding. Attention runs on groups of sequences of one length, which are contiguous because batches
are sorted by length: a group is a [count, heads, length, head_dim] view that needs no mask.

Rows are filled up to a multiple of ROWS. oneDNN makes, and keeps, kernels and buffers for each number of rows that it
meets: left to the batches, that is some thousand numbers and gigabytes in a long run.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers.activations import GELUActivation

from secbatch.models.sequences import TokenSequences

ROWS = 64


@dataclass(frozen=True)
class Packed:
    """A batch on the device. Its last rows may be filling, which belongs to no group."""

    ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64, 0 at the start of each sequence
    tokens: int  # those that are no filling
    groups: tuple[tuple[int, int, int], ...]  # (first token, sequences, their length), in order


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


def pack(sequences: TokenSequences, device: str) -> Packed:
    """Brings sequences, longest first, to the device."""
    tokens = len(sequences.ids)
    ids = filled(sequences.ids.astype(np.int64))
    positions = np.zeros_like(ids)
    positions[:tokens] = np.arange(tokens) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    return Packed(
        torch.from_numpy(ids).to(device, non_blocking=True),
        torch.from_numpy(positions).to(device, non_blocking=True),
        tokens,
        tuple(sequences.groups()),
    )


def filled(numbers: np.ndarray) -> np.ndarray:
    """`numbers` [n] and zeros, to a multiple of ROWS."""
    return np.pad(numbers, (0, -len(numbers) % ROWS))


def take(states: tuple[torch.Tensor, ...], at: np.ndarray) -> tuple[torch.Tensor, ...]:
    """The rows `at` [m] of each of `states` [T, width], and filling."""
    where = torch.from_numpy(filled(at)).to(states[0].device, non_blocking=True)
    return tuple(one[where] for one in states)


def attend(qkv: torch.Tensor, groups: tuple[tuple[int, int, int], ...], window: int | None = None) -> torch.Tensor:
    """Bidirectional attention within each sequence: [T, 3, heads, head_dim] to [T, heads × head_dim].

    With `window`, a token sees those at most `window` positions away.
    """
    tokens, _, heads, dim = qkv.shape
    out = qkv.new_empty(tokens, heads, dim)
    for first, count, length in groups:
        span = slice(first, first + count * length)
        # [3, count, heads, length, head_dim]
        q, k, v = qkv[span].view(count, length, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        mask = _window_mask(length, window, qkv.device) if window is not None and length > window + 1 else None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out[span].view(count, length, heads, dim).copy_(mixed.transpose(1, 2))
    last, count, length = groups[-1]
    out[last + count * length :] = 0  # filling: whatever lies in memory may be no number, which is slow
    return out.view(tokens, heads * dim)


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """[length, length] bool, True where a token may look."""
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() <= window
