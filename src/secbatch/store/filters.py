"""Filters that say of most digests at once that a part does not hold them (Bloom 1970, blocked as in Putze, Sanders
and Singler 2007): new rows are looked for in every part, and nearly never found.
"""

from collections.abc import Iterable

import numpy as np

BITS = 16  # for each digest
BLOCK = 1 << 16  # digests entered at a time: what that takes stays small
_IN_WORD = np.uint64(63)
_BIT_NUMBERS = tuple(np.uint64(shift) for shift in (0, 6, 12, 18))  # four places of six bits each


class Asked:
    """Digests (uint64 [n], evenly spread) that are looked for in many filters: what that takes is made once."""

    def __init__(self, digests: np.ndarray) -> None:
        self.high = digests >> np.uint64(32)  # chooses the word
        self.bits = np.zeros(len(digests), np.uint64)  # the lower half chooses its bits
        for shift in _BIT_NUMBERS:
            self.bits |= np.uint64(1) << ((digests >> shift) & _IN_WORD)

    def places(self, words: int) -> np.ndarray:
        """int64 [n]: the word of each digest in a filter of so many."""
        return (self.high * np.uint64(words) >> np.uint64(32)).astype(np.int64)

    def may_be_in(self, words: np.ndarray) -> np.ndarray:
        """bool [n]: False for digests that are surely not in the filter; True for about 1% of others besides."""
        return (words[self.places(len(words))] & self.bits) == self.bits

    def take(self, rows: np.ndarray) -> "Asked":
        """Those at `rows`: positions, or a mask."""
        taken = object.__new__(Asked)
        taken.high, taken.bits = self.high[rows], self.bits[rows]
        return taken


def words_for(count: int) -> int:
    """Words of a filter of so many digests."""
    return max(1, -(-count * BITS // 64))


def filter_of(blocks: Iterable[np.ndarray], count: int) -> np.ndarray:
    """uint64 [words] of `count` digests (uint64, evenly spread), which are given block by block."""
    words = np.zeros(words_for(count), np.uint64)
    for digests in blocks:
        for start in range(0, len(digests), BLOCK):
            asked = Asked(digests[start : start + BLOCK])
            np.bitwise_or.at(words, asked.places(len(words)), asked.bits)
    return words
