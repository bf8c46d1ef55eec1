"""Part files: immutable Parquet."""

import errno
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from secbatch.errors import OutputError
from secbatch.store import faults
from secbatch.store.durable_files import DurableFiles, write_atomically
from secbatch.store.encoding import parquet_options
from secbatch.store.filesystem import WatchedFile, explain_read, refuses_to_read, remove_file
from secbatch.store.row_keys import StoredKeys
from secbatch.store.spilled_groups import Group, SpilledGroups
from secbatch.value_bytes import value_bytes

ROW_GROUP_ROWS = 65_536  # keeps a reader's memory small and its skipping fine
ROW_GROUP_BYTES = 16 << 20  # so do rows with much in them
WIDE_ROW_BYTES = 1 << 10  # of rows as long vectors make them: to write a number takes twice its size, so
WIDE_BYTES = 8 << 20  # their row groups have less
BLOCK_ROWS = 64  # after which a row group of larger rows than its first ones may end
BLOCK_BYTES = 64 << 20  # after which it ends amid a block: 64 rows may be gigabytes
FIRST_ROWS = 1024  # that tell how many make a row group
PARQUET_END = b"PAR1"
JOINED = 64  # small tables that are made one while they wait: each takes kilobytes, however few its rows
CACHED_BYTES = 64 << 20  # of row groups that are read more than once
SPILLED_BYTES = 16 << 20  # of them that go to scratch together once they were read again and there is no room
TAKEN = 15 / 16  # of a row group's rows, after which it is let go of: the others have gone, or changed


def row_group_rows(size: int, rows: int) -> int:
    """Rows of a row group for rows such as these, of so many bytes together."""
    width = max(1, size // max(1, rows))
    most = ROW_GROUP_BYTES if width < WIDE_ROW_BYTES else min(WIDE_BYTES, ROW_GROUP_BYTES)
    return max(FIRST_ROWS, min(ROW_GROUP_ROWS, most // width))


def write_tables(
    path: Path,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    step: str,
    options: Callable[[pa.Table], dict[str, Any]] = parquet_options,
    most_rows: int = ROW_GROUP_ROWS,
    files: DurableFiles | None = None,
) -> None:
    """Writes the rows of `tables`, which have `schema`, as one file, durably; never more than a row group in memory.

    `options`: the file's layout, worked out from its first row group. `most_rows`: of a row group. The row groups are
    a pure function of the rows, not of how they are cut into tables. `files`: with which it becomes durable, if not
    alone. Raises OutputError when the disk refuses.
    """

    def write(temporary: Path) -> None:
        with TableWriter(temporary, schema, step, options, most_rows) as writer:
            for table in tables:
                writer.add(table)

    (files.write if files else write_atomically)(path, write, step)


class TableWriter:
    """A new Parquet file, written a row group at a time. Use as a context manager: at its end the file is whole."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        step: str,
        options: Callable[[pa.Table], dict[str, Any]] = parquet_options,
        most_rows: int = ROW_GROUP_ROWS,
    ) -> None:
        """See `write_tables`."""
        self._schema, self._options = schema, options
        self._groups = _RowGroupCutter(most_rows)
        self._open = ExitStack()
        self._file = self._open.enter_context(WatchedFile(path, step))
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        with self._open:
            if kind is None:
                self._write(self._groups.rest())
                assert self._writer is not None
                self._writer.close()

    def abandon(self) -> None:
        """Lets go of a file that is not to be whole."""
        with suppress(OSError):  # what the writer has still to write, where the disk refuses
            self._open.close()

    def add(self, table: pa.Table) -> None:
        """More rows, in the columns of the schema."""
        for group in self._groups.add(table):
            self._write(group)

    def _write(self, group: pa.Table | None) -> None:
        if self._writer is None:
            first = self._schema.empty_table() if group is None else group
            self._writer = self._open.enter_context(pq.ParquetWriter(self._file, self._schema, **self._options(first)))
            group = first
        if group is not None:
            group = group.replace_schema_metadata(self._schema.metadata)
            self._writer.write_table(group, row_group_size=max(1, group.num_rows))


class _RowGroupCutter:
    """Row groups: of the rows that suit the first ones, and fewer where rows become much larger."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = self._target = most_rows
        self._seen = self._seen_size = 0  # of the first rows
        self._waiting: list[pa.Table] = []
        self._small = 0  # of those that wait, at the end
        self._rows = self._size = 0

    def add(self, table: pa.Table) -> Iterator[pa.Table]:
        """The row groups that are full with these rows."""
        begin = place = 0  # of the rows that are not in a group yet, and of those that are still to be looked at
        while place < table.num_rows:
            most = self._target - self._rows
            if self._seen < FIRST_ROWS:
                most = min(most, FIRST_ROWS - self._seen)
            piece = table.slice(place, most)
            size = value_bytes(piece)
            if self._size + size >= 2 * ROW_GROUP_BYTES:  # it may end amid this piece
                piece = table.slice(place, min(most, BLOCK_ROWS - self._rows % BLOCK_ROWS))
                size = value_bytes(piece)
                if self._size + size >= BLOCK_BYTES:
                    piece = table.slice(place, 1)
                    size = value_bytes(piece)
            place += piece.num_rows
            self._rows, self._size = self._rows + piece.num_rows, self._size + size
            if self._seen < FIRST_ROWS:
                self._seen, self._seen_size = self._seen + piece.num_rows, self._seen_size + size
                if self._seen == FIRST_ROWS:
                    self._target = min(row_group_rows(self._seen_size, self._seen), self._most_rows)
            much = self._size >= (BLOCK_BYTES if self._rows % BLOCK_ROWS else 2 * ROW_GROUP_BYTES)
            if self._rows >= self._target or much:
                # One slice, which is not copied: neighbours in a table stay together.
                self._waiting.append(table.slice(begin, place - begin))
                begin = place
                yield self._group()
        if begin < place:
            self._wait(table.slice(begin))

    def _wait(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._small = self._small + 1 if table.num_rows < FIRST_ROWS else 0
        if self._small == JOINED:
            self._waiting[-JOINED:] = [pa.concat_tables(self._waiting[-JOINED:]).combine_chunks()]
            self._small = 0

    def rest(self) -> pa.Table | None:
        """What waits for more rows."""
        return self._group() if self._waiting else None

    def _group(self) -> pa.Table:
        group = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting, self._small, self._rows, self._size = [], 0, 0, 0
        return group


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A part file, its pages held against their checksums as they are read.

    Raises DamagedPartError, and OutputError for a file that may not be read: nobody is to remove that.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowInvalid, pa.ArrowIndexError, pa.ArrowNotImplementedError) as error:
        if isinstance(error, OSError) and refuses_to_read(error):
            raise explain_read(error, path) from None
        raise DamagedPartError(path, error) from None


def footer_sum(path: Path) -> int:
    """CRC-32 of a part file's footer, which says where the pages are and what is in them.

    Raises OSError, also for a file that does not end as one.
    """
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)  # its length, and four letters
        size, letters = int.from_bytes(file.read(4), "little") + 8, file.read(4)
        if letters != PARQUET_END or size > file.tell():
            raise OSError(errno.EIO, "it has no end", str(path))
        file.seek(-size, os.SEEK_END)
        return zlib.crc32(file.read())


def is_part_of(path: Path, keys: StoredKeys) -> bool:
    """Whether the file is the one that these keys were written for; those of earlier releases do not tell."""
    try:
        return keys.footer in (0, footer_sum(path))
    except OSError as error:
        if refuses_to_read(error):
            raise explain_read(error, path) from None
        return False


def readable(path: Path) -> bool:
    """Whether all rows of a part file can be read."""
    try:
        with opened(path) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except DamagedPartError:
        return False
    return True


def read_part(path: Path) -> pa.Table:
    """The rows of a part file, without the columns that stand in its folders' names."""
    with opened(path) as file:
        return file.read()


class DamagedPartError(OutputError):
    """The file is gone, or not what was written under its name."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"Part '{path}' cannot be read back ({' '.join(str(why).split())}); remove it and run again.")


class RowGroups:
    """Rows of part files by their positions; the last row groups read are kept, until most of their rows were taken."""

    def __init__(self, scratch: Path | None = None) -> None:
        """`scratch`: for row groups that are read again and for which there is no room in memory; made when needed,
        removed by the caller. None where they are read once."""
        self._starts: dict[Path, np.ndarray] = {}  # int64: the first row of each row group of a file, and its rows
        self._cache: OrderedDict[Group, pa.Table] = OrderedDict()
        self._taken: dict[Group, int] = {}  # rows of each
        self._bytes = 0
        self._gone: set[Group] = set()  # those for which there was no room before most of their rows were taken
        self._spilled = SpilledGroups(scratch) if scratch else None

    def take(self, path: Path, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """`columns` of the rows at these positions (int64 [n]) in that order. Raises OutputError."""
        with ExitStack() as stack:
            file = cache(lambda: stack.enter_context(opened(path)))  # only where something is to be read from it
            if path not in self._starts:
                about = file().metadata
                sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
                self._starts[path] = np.cumsum([0, *sizes])
            starts = self._starts[path]
            groups = np.searchsorted(starts, rows, side="right") - 1
            places, tables = rows - starts[groups], []
            wanted, counts = np.unique(groups, return_counts=True)
            for number, count in zip(wanted, counts, strict=True):
                group = (path, int(number), tuple(columns))
                if self._spilled and group in self._spilled:
                    here = groups == number
                    tables.append(self._spilled.take(group, places[here]))
                    places[here] = np.arange(count)
                else:
                    tables.append(self._group(file, group, int(count)))
            offsets = np.cumsum([0, *(table.num_rows for table in tables)])
            rank = np.searchsorted(wanted, groups)
            return pa.concat_tables(tables).take(pa.array(places + offsets[rank]))

    def _group(self, file: Callable[[], pq.ParquetFile], group: Group, rows: int) -> pa.Table:
        """A row group, of which so many rows are taken now."""
        table = self._cache.get(group)
        if table is None:
            _, number, columns = group
            table = file().read_row_group(number, columns=list(columns)).replace_schema_metadata(None)
            self._cache[group] = table
            self._bytes += table.nbytes
        self._cache.move_to_end(group)
        self._taken[group] = self._taken.get(group, 0) + rows
        if self._taken[group] > TAKEN * table.num_rows:
            self._let_go(group)
            del self._taken[group]
        self._make_room()
        return table

    def _make_room(self) -> None:
        spilled: dict[Group, tuple[pa.Table, int]] = {}
        while self._bytes > CACHED_BYTES - bool(spilled) * SPILLED_BYTES and len(self._cache) > 1:
            group = next(iter(self._cache))
            table = self._let_go(group)
            if self._spilled and group in self._gone:  # it was read again: once more is once too often
                spilled[group] = table, table.num_rows - self._taken.pop(group)
            self._gone.add(group)
        if self._spilled and spilled:
            self._spilled.add(spilled)

    def _let_go(self, group: Group) -> pa.Table:
        table = self._cache.pop(group)
        self._bytes -= table.nbytes
        return table

    def release(self) -> None:
        """Lets go of what is mapped into memory."""
        if self._spilled:
            self._spilled.release()


def remove_files(folder: Path, files: tuple[str, ...]) -> None:
    """Removes part files and the partition folders they leave empty."""
    for file in files:
        path = folder / file
        remove_file(path)
        for parent in path.parents:
            if parent == folder or not parent.is_dir() or any(os.scandir(parent)):
                break
            parent.rmdir()
            faults.record("remove", parent)
