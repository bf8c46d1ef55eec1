"""Columns of places in a dictionary (a pandas categorical, say) with the values that their rows use, and no others."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

LEAST_BYTES = 1 << 20  # of a dictionary; looking at a smaller one costs no more than its rows


def has_dictionary(kind: "pa.DataType") -> bool:
    """Whether values of this type share texts, at any depth: each batch has them once, of however many rows it is."""
    import pyarrow as pa

    inside = [kind.field(place).type for place in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return bool(pa.types.is_dictionary(kind)) or any(map(has_dictionary, inside))


def with_used_values(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    """The same rows; of dictionaries, at any depth, that are large and longer than the column the used values alone.

    A file has one for all of its rows, and Arrow gives it with each few of them: millions of values would be looked at
    for each thousand rows. Where values have an order it is that of all of them, and they stay.
    """
    import pyarrow as pa

    if not any(map(has_dictionary, batch.schema.types)):
        return batch
    return pa.RecordBatch.from_arrays([_used(column) for column in batch.columns], schema=batch.schema)


def _used(values: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if not has_dictionary(kind):
        return values
    if pa.types.is_dictionary(kind):
        return _of_dictionary(values)
    missing = values.is_null()
    if pa.types.is_struct(kind):
        parts = [_used(values.field(place)) for place in range(kind.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=missing)
    if pa.types.is_fixed_size_list(kind):
        inside = values.values.slice(values.offset * kind.list_size, len(values) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(_used(inside), type=kind, mask=missing)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind)):
        return values
    first = values.offsets[0]
    offsets = pc.subtract(values.offsets, first)
    of_rows = slice(first.as_py(), values.offsets[-1].as_py())
    if pa.types.is_map(kind):
        keys, items = _used(values.keys[of_rows]), _used(values.items[of_rows])
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=missing)
    return type(values).from_arrays(offsets, _used(values.values[of_rows]), type=kind, mask=missing)


def _of_dictionary(values: "pa.DictionaryArray") -> "pa.DictionaryArray":
    import pyarrow as pa

    held, kind = values.dictionary, values.type
    if kind.ordered or len(held) <= len(values) or held.nbytes <= LEAST_BYTES:
        return values
    present = values.indices.is_valid().to_numpy(zero_copy_only=False)
    used, places = np.unique(values.indices.drop_null().to_numpy(), return_inverse=True)
    renumbered = np.zeros(len(values), np.int64)
    renumbered[present] = places
    indices = pa.array(renumbered, kind.index_type, mask=~present)
    return pa.DictionaryArray.from_arrays(indices, held.take(pa.array(used)))
