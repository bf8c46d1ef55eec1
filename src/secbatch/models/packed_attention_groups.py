"""Attention over sequences laid end to end, for all sequences of one length at once.

On a CPU, torch's kernel takes scores sixteen at a time (a vector of AVX-512) and those that are left over one by one:
27 keys take 1.7 times as long as 32. So keys and values are taken up to a whole number of vectors, and the mask leaves
out what is too much. That is nothing but the next sequence, read where it lies: nothing is copied.

Of a long sequence whose tokens see a window around them, some neighbours are taken together with the keys that any of
them sees: all else would be computed and left out.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from secbatch.models import native

LANES = 16
FEWEST = 4  # keys in the last vector that are worth the mask
LONGEST = 512  # for more keys the rest of a vector weighs nothing
PIECE = 128  # tokens of a long sequence that look at their windows together, at least


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
        if bias is not None:
            parts = _as_they_are(qkv, first, count, length, _bias_mask(length, bias).to(qkv.dtype))
        elif window is not None and length > 2 * (_piece(window) + window):
            parts = _by_pieces(qkv, first, count, length, window)
        elif window is not None and length > window + 1:
            parts = _as_they_are(qkv, first, count, length, _window_mask(length, length, window, 0, qkv.device))
        elif qkv.device.type == "cpu" and length <= LONGEST and length % LANES >= FEWEST:
            parts = _in_vectors(qkv, first, count, length, neighbours)
        else:
            parts = _as_they_are(qkv, first, count, length, None)
        for begin, query, key, value, mask in parts:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
            out[begin : begin + mixed.shape[0] * mixed.shape[1]].view(mixed.shape).copy_(mixed)
    return out


# The first of neighbouring tokens; their query, key and value [count, heads, length, head_dim]; what they see.
_Part = tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def _as_they_are(qkv: torch.Tensor, first: int, count: int, length: int, mask: torch.Tensor | None) -> Iterator[_Part]:
    query, key, value = views(qkv, first, count, length, length)
    yield first, query, key, value, mask


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
        yield first, query[:, :, :length], key, value, mask
    if followed < count:
        last = qkv[first + followed * length : first + count * length].view(-1, length, *qkv.shape[1:])
        wide = F.pad(last, (0, 0, 0, 0, 0, 0, 0, width - length))
        query, key, value = views(wide.flatten(0, 1), 0, count - followed, width, width)
        yield first + followed * length, query[:, :, :length], key, value, mask


def _by_pieces(qkv: torch.Tensor, first: int, count: int, length: int, window: int) -> Iterator[_Part]:
    """Sequence by sequence: its first piece, all in the middle, and its last one, of up to two pieces' tokens."""
    step = _piece(window)
    inner = (length - window) // step - 1  # the keys of the next one would reach beyond the end
    for start in range(first, first + count * length, length):
        rest = (inner + 1) * step
        for begin, pieces, tokens, before, keys in (
            (0, 1, step, 0, step + window),
            (step, inner, step, window, step + 2 * window),
            (rest, 1, length - rest, window, length - rest + window),
        ):
            query = views(qkv, start + begin, pieces, step, tokens)[0]
            _, key, value = views(qkv, start + begin - before, pieces, step, keys)
            yield start + begin, query, key, value, _window_mask(tokens, keys, window, before, qkv.device)


def _piece(window: int) -> int:
    return max(PIECE, window)


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


def _window_mask(queries: int, keys: int, window: int, before: int, device: torch.device) -> torch.Tensor:
    """[queries, keys] bool, True where a token may look; `before`: keys that stand before the first query."""
    places = torch.arange(keys, device=device) - before
    return (torch.arange(queries, device=device)[:, None] - places).abs() <= window
