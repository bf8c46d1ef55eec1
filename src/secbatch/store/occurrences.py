"""How often each content has stood in the input so far: sorted runs on disk, 12 bytes a distinct row."""

from pathlib import Path

import numpy as np

from secbatch.store.mapped import MappedNumbers

IN_MEMORY = 1 << 17  # digests held before they go to disk
BLOCK = 1 << 17  # digests merged, or looked at, at a time: no more of a file is in memory


class _SortedRun:
    """Distinct digests, ascending, with their counts."""

    def __init__(self, digests: np.ndarray, counts: np.ndarray) -> None:
        """uint64 [n] and uint32 [n]"""
        self.digests, self.counts = digests, counts

    def __len__(self) -> int:
        return len(self.digests)

    def counts_of(self, digests: np.ndarray) -> np.ndarray:
        """int64 [m] of these, ascending."""
        counts = np.zeros(len(digests), np.int64)
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            block = self.digests[start:stop]
            first = int(np.searchsorted(digests, block[0]))
            end = int(np.searchsorted(digests, block[-1], side="right"))
            if first < end:
                wanted = digests[first:end]
                places = np.searchsorted(block, wanted)
                hits = np.flatnonzero(block[places] == wanted)
                counts[first + hits] = self.counts[start + places[hits]]
            self.give_back(start, stop)
        return counts

    def between(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Digests from `low` up to but without `high`."""
        start = int(np.searchsorted(self.digests, np.uint64(low)))
        stop = len(self) if high >= 1 << 64 else int(np.searchsorted(self.digests, np.uint64(high)))
        return self.digests[start:stop], self.counts[start:stop]

    def give_back(self, start: int, stop: int) -> None:
        """What was looked at from `start` up to but without `stop` need not be in memory any longer."""

    def remove(self) -> None:
        """The run is of no more use."""


class _StoredRun(_SortedRun):
    """One in files."""

    def __init__(self, file: Path) -> None:
        self._files = (file, _counts_file(file))
        self._mapped = (MappedNumbers(self._files[0], np.uint64), MappedNumbers(self._files[1], np.uint32))
        super().__init__(*(mapped.values for mapped in self._mapped))

    def give_back(self, start: int, stop: int) -> None:
        for mapped in self._mapped:
            mapped.give_back(start, stop)

    def remove(self) -> None:
        for file in self._files:
            file.unlink()


class Occurrences:
    """Counts digests. The state of one run, rebuilt by each: nothing in it is durable."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the runs go once they are too many for memory; made when needed."""
        self._folder = folder
        self._runs: list[_SortedRun] = []  # longest first
        self._files = 0

    def count(self, digests: np.ndarray) -> np.ndarray:
        """int64 [n]: how often each digest (uint64 [n]) stood before, here and in earlier calls; remembers them."""
        if not len(digests):
            return np.empty(0, np.int64)
        order = np.argsort(digests, kind="stable")
        ordered = digests[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        distinct, sizes = ordered[starts], np.diff(np.append(starts, len(ordered)))
        before = np.zeros(len(distinct), np.int64)
        for run in self._runs:
            before += run.counts_of(distinct)
        numbers = np.empty(len(digests), np.int64)
        numbers[order] = np.repeat(before - starts, sizes) + np.arange(len(digests))
        self._add(_SortedRun(distinct, sizes.astype(np.uint32)))
        return numbers

    def _add(self, run: _SortedRun) -> None:
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            second, first = self._runs.pop(), self._runs.pop()
            self._runs.append(self._merged(first, second))

    def _merged(self, first: _SortedRun, second: _SortedRun) -> _SortedRun:
        total = len(first) + len(second)
        if total <= IN_MEMORY:
            return _SortedRun(*_sum(*first.between(0, 1 << 64), *second.between(0, 1 << 64)))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        file = self._folder / f"occurrences-{self._files}"
        parts = -(-total // BLOCK)
        # Digests are spread evenly, so that ranges of equal width hold about BLOCK of them each.
        with file.open("wb") as digests, _counts_file(file).open("wb") as counts:
            for part in range(parts):
                low, high = (part << 64) // parts, ((part + 1) << 64) // parts
                merged = _sum(*first.between(low, high), *second.between(low, high))
                digests.write(merged[0].tobytes())
                counts.write(merged[1].tobytes())
                for old in (first, second):
                    old.give_back(0, len(old))
        for old in (first, second):
            old.remove()
        return _StoredRun(file)


def _counts_file(file: Path) -> Path:
    return file.with_suffix(".counts")


def _sum(*pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted (digests, counts) as one."""
    digests, counts = np.concatenate(pieces[0::2]), np.concatenate(pieces[1::2])
    order = np.argsort(digests, kind="stable")
    digests, counts = digests[order], counts[order]
    if not len(digests):
        return digests, counts
    starts = np.flatnonzero(np.concatenate([[True], digests[1:] != digests[:-1]]))
    return digests[starts], np.add.reduceat(counts, starts).astype(np.uint32)
