"""Partitions: values of columns that become folders, in the way that Hive-style readers undo."""

from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import JobError
from secbatch.store.dictionaries import as_type, plain_values, value_type

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # the name that Hive, Spark, DuckDB and pyarrow read back as null
NAME_BYTES = 255  # of a file or folder, on the file systems in use
COLUMN_BYTES = 64  # of them that are kept for the column's name and what readers add; a longer name takes more


def check_partition_columns(columns: tuple[str, ...], schema: pa.Schema) -> None:
    """Raises JobError for a partition column without a plain string form, or with a name that readers hide."""
    for name in columns:
        misread = name.startswith(("_", ".")) or "/" in name or "=" in name or not name.isprintable()
        if misread or len(name) > 60 or _room(name) < len(NULL_PARTITION):
            shown = name if len(name) <= 60 else f"{name[:60]}…"
            raise JobError(
                f"output.partition_by: column '{shown}' has a name that is too long, or that readers skip or misread; "
                "rename it in the input."
            )
        kind = value_type(schema.field(name).type)
        plain = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
        if not (plain or pa.types.is_date32(kind) or pa.types.is_boolean(kind)):
            raise JobError(
                f"output.partition_by: column '{name}' is {kind}; partition by text, integer, date or boolean columns."
            )


def misread_partitions(column: pa.ChunkedArray, name: str) -> dict[int, str]:
    """Positions whose text would be read back as another value from a folder's name, each with the text.

    `name`: the column's, which the folder's begins with.

    Readers turn `007` into the number 7, and the empty string into null; a text that is too long for a folder's
    name cannot stand there at all.
    """
    column = plain_values(column)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return {}
    distinct = column.unique()
    bad = pc.match_substring_regex(distinct, r"^[+-]?0[0-9]+(\.[0-9]*)?$|^$|^" + NULL_PARTITION + "$")
    room = _room(name)
    # Percent-encoding makes up to three bytes of one.
    long = [bool(value) and len(_escape(value)) > room for value in distinct.to_pylist()]
    wrong = distinct.filter(pc.or_kleene(bad, pa.array(long, pa.bool_())))
    if not len(wrong):
        return {}
    mask = pc.is_in(column, value_set=wrong).to_pylist()
    return {position: column[position].as_py() for position, hit in enumerate(mask) if hit}


def partition_folders(table: pa.Table, partition_by: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """The folders of the rows (`day=mon/host=x`; one empty name without partitions), sorted, and which each row has.

    The second is int64 [n].
    """
    if not partition_by or not table.num_rows:
        return [""], np.zeros(table.num_rows, np.int64)
    pieces: list[pa.Scalar | pa.ChunkedArray] = []
    for column in partition_by:
        pieces += [pa.scalar(f"{'/' if pieces else ''}{column}="), _partition_texts(table.column(column), column)]
    names = pc.binary_join_element_wise(*pieces, pa.scalar("")).combine_chunks().dictionary_encode()
    folders = names.dictionary.to_pylist()
    order = sorted(range(len(folders)), key=folders.__getitem__)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return [folders[place] for place in order], rank[names.indices.to_numpy()]


def with_partitions(table: pa.Table, folder: str, schema: pa.Schema) -> pa.Table:
    """`table` with the columns that stand in the name of its folder; types as in `schema`, else text."""
    for level in folder.split("/") if folder else ():
        name, _, text = level.partition("=")
        field = schema.field(name) if name in schema.names else pa.field(name, pa.string())
        value = None if text == NULL_PARTITION else unquote(text)
        column = pa.chunked_array([pa.repeat(pa.scalar(value, pa.string()), table.num_rows)])
        column = as_type(column, field.type)
        table = table.append_column(field, column)
    return table


def _room(name: str) -> int:
    """Bytes that a value of the column may take in a folder's name."""
    return NAME_BYTES - max(COLUMN_BYTES, len(name.encode()) + len("="))


def _partition_texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Folder-safe text of each value of the column `name`."""
    texts = plain_values(column).cast(pa.string())
    distinct = texts.unique()
    misread = {distinct[place].as_py() for place in misread_partitions(pa.chunked_array([distinct]), name)}
    safe = [NULL_PARTITION if value is None or value in misread else _escape(value) for value in distinct.to_pylist()]
    places = pc.index_in(texts, value_set=distinct)
    return pa.chunked_array([pa.array(safe, pa.string())]).take(places)


def _escape(value: str) -> str:
    # Percent-encoding is what Hive-style readers undo; a leading dot or underscore would hide the folder.
    escaped = quote(value, safe=" ")
    return f"%{ord(value[0]):02X}{escaped[1:]}" if value[0] in "._~-" and escaped[0] == value[0] else escaped
