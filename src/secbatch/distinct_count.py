"""How many different values there are among more than memory should hold."""

import numpy as np

KEPT = 4096  # values; the count of many is off by one in the square root of so many: 1.6%


class DistinctCount:
    """Counts different digests: exactly while they are few, then by how close together the lowest of them lie."""

    def __init__(self) -> None:
        self._lowest = np.empty(0, np.uint64)

    def add(self, digests: np.ndarray) -> None:
        """`digests`: uint64 [n], spread evenly over all that there can be."""
        if len(self._lowest) == KEPT:
            digests = digests[digests < self._lowest[-1]]
        self._lowest = np.union1d(self._lowest, digests)[:KEPT]

    def __call__(self) -> float:
        if len(self._lowest) < KEPT:
            return float(len(self._lowest))
        return (KEPT - 1) / (float(self._lowest[-1]) / 2**64)
