"""Which rows of an input have a later row with their id, told before the first of them is worked on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from secbatch.identity import Identities
from secbatch.sources.shard import Shard
from secbatch.store.present import Present, place_of, shard_of


class LaterRows:
    """Where conversations are put together, rows leave the order of the input, by which the later of two is known."""

    def __init__(self, identities: Identities, scratch: Path) -> None:
        """`scratch`: a folder for what does not fit in memory (24 bytes a row), removed by the caller."""
        self._identities = identities
        self._present = Present(scratch)
        self._starts: list[int] = []  # place of each shard's first row in the whole input

    def noted(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """The same shards, their identities noted on the way."""
        start = 0
        for number, shard in enumerate(shards):
            self._starts.append(start)
            start += shard.num_rows
            if shard.num_rows:
                keys = self._identities.keys(shard)
                self._present.add(number, keys, keys[:0])
            yield shard

    def superseded(self) -> np.ndarray:
        """int64 [l], ascending: places in the whole input of the rows that a later one replaces."""
        lost = self._present.winners().lost
        return np.asarray(self._starts, np.int64)[shard_of(lost)] + place_of(lost)
