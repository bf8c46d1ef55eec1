"""Columns of places in a dictionary: what a pandas categorical, or a column of few values, is in Arrow."""

import pyarrow as pa


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, whether a dictionary holds them or not."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def plain_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values without a dictionary."""
    return column.cast(value_type(column.type))


def as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The values as `kind`, which may be a dictionary where they have none. Raises as Arrow's `cast` does."""
    if column.type == kind:
        return column
    values = plain_values(column).cast(value_type(kind))
    # Arrow makes dictionaries of any values, and casts to their types from text alone.
    return values.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else values
