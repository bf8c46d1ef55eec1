"""How columns are laid out in a part: what makes a file small and quick to write, chosen from the values."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from secbatch.value_bytes import is_text, value_bytes

SAMPLE_ROWS = 2_000  # of a column, to see whether its values repeat
# Of a table, to tell its size: it stands for rows like it, or for fewer wide ones.
SIZED_ROWS, SIZED_BYTES = 512, 1 << 18
REPEATING = 0.5  # distinct values over rows, below which a dictionary is worth its while
# Of a value that is kept as minimum or maximum. Arrow copies it six times to compare it, and writes none of over 4 KB.
COMPARED_BYTES = 1 << 20


def parquet_options(table: pa.Table) -> dict[str, Any]:
    """Arguments for `pyarrow.parquet.write_table`; a pure function of the table, so that a redo gives the same bytes.

    A dictionary of values that hardly repeat (sentences, identities, scores) costs more than all the rest of
    writing and makes the file larger, so only columns that repeat get one. Minimum and maximum are kept for
    columns that a reader can filter by, not for values inside lists.
    """
    repeating = [
        path for name in table.column_names for path, values in _leaves(name, _sample(table, name)) if _repeats(values)
    ]
    flat = [
        field.name
        for field in table.schema
        if not pa.types.is_nested(field.type) and _longest(table.column(field.name)) <= COMPARED_BYTES
    ]
    # zstd reads fast; its lowest regular level is within a few percent of the size of higher ones here.
    layout = {"use_dictionary": repeating or False, "write_statistics": flat or False}
    return {"compression": "zstd", **layout, "write_page_checksum": True}


def scratch_options(table: pa.Table) -> dict[str, Any]:
    """For a file that is soon read once and removed: a third of the time, and three times the size."""
    told_by = [name for name in table.column_names if name == "secbatch_id"]  # one file from another of its size
    layout = {"use_dictionary": False, "write_statistics": told_by or False}
    return {"compression": "none", **layout, "write_page_checksum": True}


def size_in_part(table: pa.Table, rows: int | None = None) -> int:
    """About how many bytes the rows take with `parquet_options`; a pure function of the table.

    `rows`: how many there are, where the table has only the first SIZED_ROWS of them.
    """
    rows = table.num_rows if rows is None else rows
    width = max(1, value_bytes(table.slice(0, SIZED_ROWS)) // SIZED_ROWS)
    few = table.slice(0, max(32, min(SIZED_ROWS, SIZED_BYTES // width))).replace_schema_metadata(None)
    sink = pa.MockOutputStream()  # which counts what is written and keeps none of it
    pq.write_table(few, sink, **parquet_options(few))
    return int(sink.size()) * rows // max(1, few.num_rows)


def _longest(column: pa.ChunkedArray) -> int:
    """Bytes of the longest text in a column; 0 where it has none."""
    return (pc.max(pc.binary_length(column)).as_py() or 0) if is_text(column.type) else 0


def _sample(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).slice(0, SAMPLE_ROWS)
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _leaves(path: str, values: pa.Array) -> list[tuple[str, pa.Array]]:
    """The columns that Parquet makes of one: lists and structs are taken apart."""
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaves(f"{path}.list.element", values.flatten())
    if pa.types.is_map(kind):
        return [
            *_leaves(f"{path}.key_value.key", values.keys),
            *_leaves(f"{path}.key_value.value", values.items),
        ]
    if pa.types.is_struct(kind):
        parts = zip(kind, values.flatten(), strict=True)
        return [leaf for field, part in parts for leaf in _leaves(f"{path}.{field.name}", part)]
    return [(path, values)]


def _repeats(values: pa.Array) -> bool:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return True
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return False
    sample = values.slice(0, SAMPLE_ROWS)
    try:
        return len(pc.unique(sample)) <= REPEATING * len(sample)
    except pa.ArrowNotImplementedError:  # a type without a hash: views, extension types
        return True
