"""Filters that say of most digests at once that a part does not hold them (Bloom 1970, blocked as in Putze, Sanders
and Singler 2007): new rows are looked for in every part, and nearly never found.
"""

import numpy as np

BITS = 16  # for each digest
_WORD = np.uint64(64)
_BIT_NUMBERS = tuple(np.uint64(shift) for shift in (0, 6, 12, 18))  # four places of six bits each


def filter_of(digests: np.ndarray) -> np.ndarray:
    """uint64 [words] of digests (uint64 [n], evenly spread)."""
    words = np.zeros(max(1, -(-len(digests) * BITS // 64)), np.uint64)
    np.bitwise_or.at(words, _places(digests, len(words)), _bits(digests))
    return words


def may_hold(words: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """bool [n]: False for digests (uint64 [n]) that are surely not in it; True for about 1% of others besides."""
    bits = _bits(digests)
    return (words[_places(digests, len(words))] & bits) == bits


def _places(digests: np.ndarray, words: int) -> np.ndarray:
    # The upper half chooses the word, the lower one its bits.
    return ((digests >> np.uint64(32)) * np.uint64(words) >> np.uint64(32)).astype(np.int64)


def _bits(digests: np.ndarray) -> np.ndarray:
    bits = np.zeros(len(digests), np.uint64)
    for shift in _BIT_NUMBERS:
        bits |= np.uint64(1) << ((digests >> shift) % _WORD)
    return bits
