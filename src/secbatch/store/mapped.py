"""Numbers in a file, mapped into memory, and given back once they were looked at."""

import mmap
from pathlib import Path

import numpy as np


class MappedNumbers:
    """A file of numbers of one kind, for as long as this lives; the file may be removed meanwhile."""

    def __init__(self, path: Path, kind: type[np.generic]) -> None:
        """`path`: a file that is not empty."""
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.values = np.frombuffer(self._memory, kind)

    def give_back(self, start: int, stop: int) -> None:
        """The values from `start` up to but without `stop` no longer count as this process's memory.

        The system may keep them, and drop them when it needs the room; they come back when they are looked at.
        """
        size = self.values.itemsize
        first = start * size // mmap.PAGESIZE * mmap.PAGESIZE
        if stop * size > first:
            self._memory.madvise(mmap.MADV_DONTNEED, first, stop * size - first)
