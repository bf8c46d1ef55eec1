"""Attention over sequences laid end to end, for all sequences of one length at once.

On a CPU, torch's kernel takes scores sixteen at a time (a vector of AVX-512) and those that are left over one by one:
27 keys take 1.7 times as long as 32. So keys and values are taken up to a whole number of vectors, and the mask leaves
out what is too much. That is nothing but the next sequence, read where it lies: nothing is copied.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from secbatch.models import native

LANES = 16
FEWEST = 4  # keys in the last vector that are worth the mask
LONGEST = 512  # for more keys the rest of a vector weighs nothing


def attend_by_groups(
    qkv: torch.Tensor,
    groups: tuple[tuple[int, int, int], ...],
    window: int | None,
    neighbours: bool,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Bidirectional attention within each sequence: [T, 3, heads, head_dim] to [T, heads, head_dim].

    `groups`: (first token, sequences, their length) each; tokens of none get what lies in memory. With `window`, a
    token sees those at most `window` positions away; `bias` is as of `native.attend_within`. Values that are no numbers
    spread to the sequence before them, unless `neighbours` is False; the others are the same bits with and without.
    """
    tokens, _, heads, dim = qkv.shape
    out = qkv.new_empty(tokens, heads, dim)
    for first, count, length in groups:
        target = out[first : first + count * length].view(count, length, heads, dim)
        if bias is not None:
            parts = _as_they_are(qkv, first, count, length, _bias_mask(length, bias).to(qkv.dtype))
        elif window is not None and length > window + 1:
            parts = _as_they_are(qkv, first, count, length, _window_mask(length, window, qkv.device))
        elif qkv.device.type == "cpu" and length <= LONGEST and length % LANES >= FEWEST:
            parts = _in_vectors(qkv, first, count, length, neighbours)
        else:
            parts = _as_they_are(qkv, first, count, length, None)
        for rows, query, key, value, mask in parts:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            target[rows].copy_(mixed.transpose(1, 2))
    return out


# Which sequences of a group; their query, key and value [count, heads, length, head_dim]; what they see.
_Part = tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def _as_they_are(qkv: torch.Tensor, first: int, count: int, length: int, mask: torch.Tensor | None) -> Iterator[_Part]:
    query, key, value = views(qkv, first, count, length, length)
    yield slice(None), query, key, value, mask


def _in_vectors(qkv: torch.Tensor, first: int, count: int, length: int, neighbours: bool) -> Iterator[_Part]:
    """Keys and values of a whole number of vectors. The last sequences, behind which too little lies, are copied."""
    width = length + -length % LANES
    mask = qkv.new_zeros(width)
    mask[length:] = -torch.inf
    mask = mask.expand(1, 1, length, width)
    followed = (len(qkv) - width - first) // length + 1 if neighbours else 0
    followed = min(max(followed, 0), count)
    if followed:
        query, key, value = views(qkv, first, followed, length, width)
        yield slice(followed), query[:, :, :length], key, value, mask
    if followed < count:
        last = qkv[first + followed * length : first + count * length].view(-1, length, *qkv.shape[1:])
        wide = F.pad(last, (0, 0, 0, 0, 0, 0, 0, width - length))
        query, key, value = views(wide.flatten(0, 1), 0, count - followed, width, width)
        yield slice(followed, None), query[:, :, :length], key, value, mask


def views(qkv: torch.Tensor, first: int, count: int, step: int, length: int) -> tuple[torch.Tensor, ...]:
    """Query, key and value [count, heads, length, head_dim] of sequences that begin `step` tokens apart."""
    _, _, heads, dim = qkv.shape
    token, part, head, number = qkv.stride()
    shape, strides = (count, heads, length, dim), (step * token, head, token, number)
    start = qkv.storage_offset() + first * token
    return tuple(qkv.as_strided(shape, strides, start + which * part) for which in range(3))


def _bias_mask(length: int, bias: torch.Tensor) -> torch.Tensor:
    """[heads, length, length], what is added to scores."""
    positions = torch.arange(length, device=bias.device)
    return bias[:, native.LONGEST + positions - positions[:, None]]


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """[length, length] bool, True where a token may look."""
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() <= window
