"""Row groups that are read again and again and do not fit in memory: in scratch, so that rows are taken out of them
without all of them being read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from secbatch.store.filesystem import explain, make_folder, remove_file

Group = tuple[Path, int, tuple[str, ...]]  # a part file, the number of a row group in it, and some of its columns


class SpilledGroups:
    """Files of row groups; no more than one of them is mapped into memory. Each is removed once its rows were taken."""

    def __init__(self, folder: Path) -> None:
        """`folder`: made when needed, removed by the caller."""
        self._folder = folder
        self._files: list[Path] = []
        self._left: list[int] = []  # rows of each file that were not taken yet
        self._places: dict[Group, tuple[int, int]] = {}  # number of the file, and the group's first row in it
        self._mapped: tuple[int, pa.Table] | None = None

    def __contains__(self, group: Group) -> bool:
        return group in self._places

    def add(self, groups: Mapping[Group, tuple[pa.Table, int]]) -> None:
        """Writes these, each with the number of its rows that were not taken yet, together if they have the same
        columns. Raises OutputError."""
        alike: dict[str, list[Group]] = {}
        for group, (table, _) in groups.items():
            alike.setdefault(str(table.schema), []).append(group)
        for members in alike.values():
            path, start = self._folder / f"{len(self._files)}.arrow", 0
            self._write(path, (groups[group][0] for group in members))
            for group in members:
                self._places[group] = len(self._files), start
                start += groups[group][0].num_rows
            self._files.append(path)
            self._left.append(sum(groups[group][1] for group in members))

    @staticmethod
    def _write(path: Path, tables: Iterable[pa.Table]) -> None:
        table = pa.concat_tables(tables).combine_chunks()
        make_folder(path.parent)
        try:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        except OSError as error:
            raise explain(error, path) from None

    def take(self, group: Group, rows: np.ndarray) -> pa.Table:
        """The rows of a group at these positions (int64 [n]), in that order. Raises OutputError."""
        number, start = self._places[group]
        if not self._mapped or self._mapped[0] != number:
            self.release()
            try:
                with pa.memory_map(str(self._files[number])) as file:
                    self._mapped = number, pa.ipc.open_file(file).read_all()
            except OSError as error:
                raise explain(error, self._files[number]) from None
        taken = self._mapped[1].take(pa.array(rows + start))
        self._left[number] -= len(rows)
        if self._left[number] <= 0:  # one that is asked for twice is read from its part again
            self.release()
            try:
                remove_file(self._files[number])
            except OSError as error:
                raise explain(error, self._files[number]) from None
            self._places = {group: place for group, place in self._places.items() if place[0] != number}
        return taken

    def release(self) -> None:
        """Lets go of the file that is mapped; it comes back when it is asked for."""
        self._mapped = None
