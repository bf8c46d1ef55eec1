"""Bytes of values, however they lie in memory: the same rows have the same size, just made or read back from a file."""

import pyarrow as pa
import pyarrow.compute as pc


def value_bytes(table: pa.Table) -> int:
    """About what the values of a table take. Unlike `nbytes` it knows no buffers: parts of a table add up to it."""
    return sum(_bytes(chunk) for column in table.columns for chunk in column.chunks)


def read_back_alike(kind: pa.DataType) -> bool:
    """Whether values of this type that are read from a Parquet file are laid out as those that were written to it.

    Those of a dictionary come in another order, for one.
    """
    if pa.types.is_struct(kind):
        return all(read_back_alike(field.type) for field in kind)
    if _is_list(kind):
        return read_back_alike(kind.value_type)
    return is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_decimal(kind)


def _bytes(values: pa.Array) -> int:
    kind = values.type
    if pa.types.is_dictionary(kind):
        if not is_text(kind.value_type):
            return 8 * len(values)
        return 4 * len(values) + _sum(pc.binary_length(values.dictionary).take(values.indices))
    if is_text(kind):
        return 4 * len(values) + _sum(pc.binary_length(values))
    if _is_list(kind):
        return 4 * len(values) + _bytes(values.flatten())
    if pa.types.is_struct(kind):
        return len(values) + sum(_bytes(child) for child in values.flatten())
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return len(values)
    try:
        return len(values) * (kind.bit_width // 8)
    except ValueError:  # maps, views and the like
        return int(values.nbytes)


def _sum(lengths: pa.Array) -> int:
    return pc.sum(lengths).as_py() or 0


def is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
