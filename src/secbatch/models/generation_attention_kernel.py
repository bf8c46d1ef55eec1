"""Attention of single steps on a GPU, in half precision: a few queries a row over a cache of keys and values.

torch's kernels are made for many queries: they work as if a row had 64, and read what no query sees. Here it is what
must be read that takes the time, and tiles of which no query sees anything are not read.
(Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135.)
"""

import triton
import triton.language as tl
from torch import Tensor

TILE, WARPS = 64, 2  # keys at a time, and groups of 32 threads for a head of a row
LEAST = 16  # queries and widths that matrix units take at least


def attend(query: Tensor, pairs: Tensor, mask: Tensor, tile: int = TILE, warps: int = WARPS) -> Tensor:
    """query: [B, H, K, D], of any strides but a last one of 1; pairs: [B, H, N, 2 * D], keys and values, contiguous.

    mask: [B, 1, K or 1, N] of 0 and minus infinity. Returns [B, K, H, D], contiguous.
    """
    rows, heads, count, width = query.shape
    out = query.new_empty(rows, count, heads, width)
    _attend[(rows * heads,)](
        query,
        pairs,
        mask,
        out,
        count,
        pairs.shape[2],
        query.stride(0),
        query.stride(1),
        query.stride(2),
        mask.stride(0),
        mask.stride(2) if mask.shape[2] > 1 else 0,
        width**-0.5,
        heads=heads,
        width=width,
        queries=max(LEAST, triton.next_power_of_2(count)),
        padded=max(LEAST, triton.next_power_of_2(width)),
        tile=tile,
        num_warps=warps,
    )
    return out


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    query,
    pairs,
    mask,
    out,
    count,
    keys,
    query_row,
    query_head,
    query_step,
    mask_row,
    mask_step,
    scale,
    heads: tl.constexpr,
    width: tl.constexpr,
    queries: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
):
    """One head of one row."""
    row, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    step, column = tl.arange(0, queries), tl.arange(0, padded)
    is_step, is_column = step < count, column < width
    whole = is_step[:, None] & is_column[None, :]
    asked = tl.load(query + row * query_row + head * query_head + step[:, None] * query_step + column, whole, 0.0)
    first = pairs + (row * heads + head) * keys * (2 * width)
    best = tl.full([queries], float("-inf"), tl.float32)  # largest score so far
    total = tl.zeros([queries], tl.float32)  # of exp(score - best)
    mixed = tl.zeros([queries, padded], tl.float32)  # values, weighed by the same
    for start in range(0, keys, tile):
        place = start + tl.arange(0, tile)
        is_place = place < keys
        seen = is_step[:, None] & is_place[None, :]
        bias = tl.load(mask + row * mask_row + step[:, None] * mask_step + place, seen, float("-inf")).to(tl.float32)
        if tl.max(tl.max(bias, 1), 0) > float("-inf"):
            pair = first + place[:, None] * (2 * width) + column
            there = is_place[:, None] & is_column[None, :]
            key = tl.load(pair, there, 0.0)
            value = tl.load(pair + width, there, 0.0)
            scores = tl.dot(asked, tl.trans(key)) * scale + bias
            larger = tl.maximum(best, tl.max(scores, 1))
            finite = tl.where(larger == float("-inf"), 0.0, larger)  # a query that has seen nothing yet
            weights = tl.exp(scores - finite[:, None])
            before = tl.exp(best - finite)
            total = total * before + tl.sum(weights, 1)
            mixed = tl.dot(weights.to(value.dtype), value, mixed * before[:, None])
            best = larger
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    place_out = ((row * count + step[:, None]) * heads + head) * width + column
    tl.store(out + place_out, mixed.to(out.dtype.element_ty), whole)
