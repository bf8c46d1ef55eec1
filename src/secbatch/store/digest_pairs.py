"""Digests of 128 bits, as two uint64 each, looked up among sorted ones.

The identities of rows that repeat, in an input without ids, differ in their second halves alone; there may be a
million of them, so the second halves are searched as well.
"""

import numpy as np


def find_pairs(first: np.ndarray, second: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [n]: the place of each of `wanted` (uint64 [n, 2]), -1 for one that is not there.

    `first` and `second`: uint64 [m] each, sorted by both; of equal ones any is found.
    """
    found = np.full(len(wanted), -1, np.int64)
    if not len(first):
        return found
    open_ = np.argsort(wanted[:, 0])  # ascending, so that a large file is read once from front to back
    places = np.searchsorted(first, wanted[open_, 0])
    inside = places < len(first)
    open_, places = open_[inside], places[inside]
    same = first[places] == wanted[open_, 0]
    open_, places = open_[same], places[same]
    hit = second[places] == wanted[open_, 1]
    found[open_[hit]] = places[hit]
    open_, places = open_[~hit], places[~hit]
    stops = np.searchsorted(first, wanted[open_, 0], side="right")
    found[open_] = _within(second, places, stops, wanted[open_, 1])
    return found


def _within(second: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [n]: where each of `wanted` (uint64 [n]) stands in `second` from `low` up to but without `high`, or -1."""
    stop = high
    while (open_ := low < high).any():
        middle = (low + high) // 2
        below = second[np.minimum(middle, len(second) - 1)] < wanted
        low = np.where(open_ & below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    there = low < stop
    there[there] = second[low[there]] == wanted[there]
    return np.where(there, low, -1)
