"""Part files: immutable Parquet."""

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from secbatch.errors import OutputError
from secbatch.store import faults
from secbatch.store.encoding import parquet_options
from secbatch.store.filesystem import WatchedFile, remove_file, write_atomically
from secbatch.store.partitions import partition_folders

ROW_GROUP_ROWS = 65_536  # keeps a reader's memory small and its skipping fine
ROW_GROUP_BYTES = 32 << 20  # so do rows with long vectors
BLOCK_ROWS = 64  # after which a row group of larger rows than its first ones may end
CACHED_BYTES = 256 << 20  # of row groups that are read more than once


def row_group_rows(table: pa.Table) -> int:
    """Rows of a row group for rows such as these."""
    width = max(1, table.nbytes // max(1, table.num_rows))
    return max(1024, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // width))


def write_tables(
    path: Path,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    step: str,
    options: Callable[[pa.Table], dict[str, Any]] = parquet_options,
    most_rows: int = ROW_GROUP_ROWS,
) -> int:
    """Writes the rows of `tables`, which have `schema`, as one file, durably; never more than a row group in memory.

    `options`: the file's layout, worked out from its first row group. `most_rows`: of a row group. The row groups are
    a pure function of the rows, not of how they are cut into tables. Returns the file's bytes. Raises OutputError when
    the disk refuses.
    """
    size = 0

    def write(temporary: Path) -> None:
        nonlocal size
        with WatchedFile(temporary, step) as file:
            groups = _regrouped(tables, most_rows)
            first = next(groups, schema.empty_table())
            with pq.ParquetWriter(file, schema, **options(first)) as writer:
                for group in itertools.chain([first], groups):
                    writer.write_table(
                        group.replace_schema_metadata(schema.metadata), row_group_size=max(1, group.num_rows)
                    )
            size = file.tell()

    write_atomically(path, write, step)
    return size


def _regrouped(tables: Iterable[pa.Table], most_rows: int) -> Iterator[pa.Table]:
    """Row groups: of the rows that suit the first ones, and fewer where rows become much larger."""
    waiting: list[pa.Table] = []
    rows = size = target = 0
    for table in tables:
        if not table.num_rows:
            continue
        target = target or min(row_group_rows(table.slice(0, 1024)), most_rows)
        while table.num_rows:
            piece = table.slice(0, target - rows)
            if size + piece.nbytes >= 2 * ROW_GROUP_BYTES:  # it may end amid this piece
                piece = table.slice(0, min(target - rows, BLOCK_ROWS - rows % BLOCK_ROWS))
            waiting.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
            table = table.slice(piece.num_rows)
            if rows == target or (size >= 2 * ROW_GROUP_BYTES and rows % BLOCK_ROWS == 0):
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def write_part(folder: Path, name: str, table: pa.Table, partition_by: tuple[str, ...]) -> tuple[str, ...]:
    """Writes `table` durably as one file, or one for each combination of partition values.

    Returns the files' paths under `folder`. Raises OutputError when the disk refuses.
    """
    places, codes = partition_folders(table, partition_by)
    rest = table.drop_columns(list(partition_by))
    files = []
    for code, place in enumerate(places):
        rows = rest.take(pa.array(np.flatnonzero(codes == code)))
        files.append(f"{place}/{name}.parquet" if place else f"{name}.parquet")
        write_tables(folder / files[-1], rest.schema, [rows], "part")
    return tuple(files)


def read_part(folder: Path, files: tuple[str, ...], columns: list[str] | None = None) -> pa.Table:
    """The rows of part files, without the columns that stand in their folders' names."""
    try:
        tables = [pq.read_table(folder / file, columns=columns, partitioning=None) for file in files]
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(folder / files[0], error) from None
    return pa.concat_tables(tables)


def unreadable(path: Path, error: Exception) -> OutputError:
    return OutputError(f"Part '{path}' cannot be read back ({error}); remove it and run again.")


class RowGroups:
    """Rows of part files by their positions; the last row groups read are kept."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[Path, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._bytes = 0

    def take(self, path: Path, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """`columns` of the rows at these positions (int64 [n]) in that order. Raises OutputError."""
        try:
            with pq.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
                starts = np.cumsum([0, *sizes])
                groups = np.searchsorted(starts, rows, side="right") - 1
                wanted = np.unique(groups)
                tables = [self._group(file, path, int(group), tuple(columns)) for group in wanted]
        except (OSError, pa.ArrowInvalid) as error:
            raise unreadable(path, error) from None
        offsets = np.cumsum([0, *(table.num_rows for table in tables)])
        rank = np.searchsorted(wanted, groups)
        return pa.concat_tables(tables).take(pa.array(rows - starts[groups] + offsets[rank]))

    def _group(self, file: pq.ParquetFile, path: Path, group: int, columns: tuple[str, ...]) -> pa.Table:
        key = (path, group, columns)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        table = file.read_row_group(group, columns=list(columns)).replace_schema_metadata(None)
        self._cache[key] = table
        self._bytes += table.nbytes
        while self._bytes > CACHED_BYTES and len(self._cache) > 1:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes
        return table


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
