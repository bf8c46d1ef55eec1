"""Parts: immutable Parquet files."""

import os
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from secbatch.errors import JobError, OutputError
from secbatch.store.encoding import parquet_options
from secbatch.store.filesystem import write_atomically

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # the name that Hive, Spark, DuckDB and pyarrow read back as null
ROW_GROUP_ROWS = 65_536


NAME_BYTES = 255  # of a file or folder, on the file systems in use


def check_partition_columns(columns: tuple[str, ...], schema: pa.Schema) -> None:
    """Raises JobError for a partition column without a plain string form, or with a name that readers hide."""
    for name in columns:
        if name.startswith(("_", ".")) or "/" in name or "=" in name:
            raise JobError(
                f"Partition column '{name}' has a name that readers skip or misread; rename it in the input."
            )
        kind = schema.field(name).type
        plain = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
        if not (plain or pa.types.is_date32(kind) or pa.types.is_boolean(kind)):
            raise JobError(f"Partition column '{name}' is {kind}; partition by text, integer, date or boolean columns.")


def misread_partitions(column: pa.ChunkedArray) -> dict[int, str]:
    """Positions whose text would be read back as another value from a folder's name, each with the text.

    Readers turn `007` into the number 7, and the empty string into null; a text that is too long for a folder's
    name cannot stand there at all.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return {}
    distinct = column.unique()
    bad = pc.match_substring_regex(distinct, r"^[+-]?0[0-9]+(\.[0-9]*)?$|^$|^" + NULL_PARTITION + "$")
    room = NAME_BYTES - 64  # for the column's name and what readers add
    # Percent-encoding makes up to three bytes of one.
    long = [bool(value) and len(_escape(value)) > room for value in distinct.to_pylist()]
    wrong = distinct.filter(pc.or_kleene(bad, pa.array(long, pa.bool_())))
    if not len(wrong):
        return {}
    mask = pc.is_in(column, value_set=wrong).to_pylist()
    return {position: column[position].as_py() for position, hit in enumerate(mask) if hit}


def write_part(folder: Path, name: str, table: pa.Table, partition_by: tuple[str, ...]) -> tuple[str, ...]:
    """Writes `table` durably as one file, or one for each combination of partition values.

    Returns the files' paths under `folder`. Raises OutputError when the disk refuses.
    """
    if not partition_by:
        _write(folder / f"{name}.parquet", table)
        return (f"{name}.parquet",)
    files = []
    keys = [_partition_texts(table.column(column)) for column in partition_by]
    combined = list(zip(*(key.to_pylist() for key in keys), strict=True))
    rest = table.drop_columns(list(partition_by))
    members: dict[tuple[str, ...], list[int]] = {}
    for position, values in enumerate(combined):
        members.setdefault(values, []).append(position)
    for values in sorted(members):
        rows = pa.array(members[values], pa.int64())
        place = "/".join(f"{column}={value}" for column, value in zip(partition_by, values, strict=True))
        _write(folder / place / f"{name}.parquet", rest.take(rows))
        files.append(f"{place}/{name}.parquet")
    return tuple(files)


def _partition_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Folder-safe text of each value."""
    texts = column.cast(pa.string())
    distinct = texts.unique()
    misread = {distinct[place].as_py() for place in misread_partitions(pa.chunked_array([distinct]))}
    safe = [NULL_PARTITION if value is None or value in misread else _escape(value) for value in distinct.to_pylist()]
    places = pc.index_in(texts, value_set=distinct)
    return pa.chunked_array([pa.array(safe, pa.string())]).take(places)


def _escape(value: str) -> str:
    # Percent-encoding is what Hive-style readers undo; a leading dot or underscore would hide the folder.
    escaped = quote(value, safe=" ")
    return f"%{ord(value[0]):02X}{escaped[1:]}" if value[0] in "._~-" and escaped[0] == value[0] else escaped


def _write(path: Path, table: pa.Table) -> None:
    def write(temporary: Path) -> None:
        # Row groups of this size keep a reader's memory small and its skipping fine.
        pq.write_table(table, temporary, row_group_size=ROW_GROUP_ROWS, **parquet_options(table))

    write_atomically(path, write)


def read_part(folder: Path, files: tuple[str, ...], columns: list[str] | None = None) -> pa.Table:
    """The rows of a part that is not partitioned, as a table."""
    try:
        tables = [pq.read_table(folder / file, columns=columns, partitioning=None) for file in files]
    except (OSError, pa.ArrowInvalid) as error:
        raise OutputError(
            f"Part '{folder / files[0]}' cannot be read back ({error}); remove it and run again."
        ) from None
    return pa.concat_tables(tables)


def remove_files(folder: Path, files: tuple[str, ...]) -> None:
    """Removes part files and the partition folders they leave empty."""
    for file in files:
        path = folder / file
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == folder or not parent.is_dir() or any(os.scandir(parent)):
                break
            parent.rmdir()
