"""Row keys of small parts that follow each other, in one file: where the rows of a shard lie in thousands of parts, to
ask each of them takes longer than all else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secbatch.store.row_keys import COLUMNS, RowKeys, StoredKeys, write_keys

JOINED_ROWS = 1 << 18  # whose keys are joined: they are in memory for a moment


@dataclass(frozen=True)
class Joined:
    """Parts whose keys stand in one file: one, or some that follow each other."""

    first: int  # number of the first part
    starts: np.ndarray  # int64 [p]: where the rows of each begin among those of all
    keys: StoredKeys | None = None  # None: of one part, its own

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] each: in which parts these of the rows (int64 [n]) stand, and where."""
        part = np.searchsorted(self.starts, rows, side="right") - 1
        return self.first + part, rows - self.starts[part]


def joined(parts: Sequence[int], open_keys: Callable[[int], StoredKeys], folder: Path) -> list[Joined]:
    """The keys of the parts with these numbers, ascending, joined where that can be, in files in `folder`."""
    made: list[Joined] = []
    group: list[StoredKeys] = []
    first = rows = 0  # of the group: the first part's number, and its rows
    for number in parts:
        keys = open_keys(number)
        follows = number == first + len(group) and rows + keys.rows <= JOINED_ROWS
        if group and not (follows and _alike(group[0], keys)):
            made.append(_joined(first, group, folder))
            group, rows = [], 0
        first = first if group else number
        group.append(keys)
        rows += keys.rows
    return [*made, _joined(first, group, folder)] if group else made


def _alike(one: StoredKeys, other: StoredKeys) -> bool:
    return one.tasks == other.tasks and one.about.get("schema") == other.about.get("schema")


def _joined(first: int, parts: Sequence[StoredKeys], folder: Path) -> Joined:
    starts = np.cumsum([0, *(part.rows for part in parts[:-1])])
    if len(parts) == 1:
        return Joined(first, starts)
    read = [part.read(0, part.rows) for part in parts]
    tasks = parts[0].tasks
    columns = {
        name: np.concatenate([keys.column(name) for keys in read])
        for name in (*COLUMNS, *(f"done {task}" for task in tasks))
    }
    done = {task: columns.pop(f"done {task}") for task in tasks}
    path = folder / f"{first}.keys"
    write_keys(path, RowKeys(**columns, done=done), {"schema": parts[0].about.get("schema")}, "part keys")
    return Joined(first, starts, StoredKeys(path))
