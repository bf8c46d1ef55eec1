"""Columns of places in a dictionary (a pandas categorical, say) with the values that their rows use, and no others."""

from collections.abc import Callable
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
    return pa.RecordBatch.from_arrays([_changed(column, _smaller) for column in batch.columns], schema=batch.schema)


def with_used_values_only(values: "pa.Array") -> "pa.Array":
    """The same values; of dictionaries of any size, at any depth, the used values alone."""
    return _changed(values, _used)


def renumbered(values: "pa.DictionaryArray", keep: np.ndarray) -> "pa.DictionaryArray":
    """`values` with those of their dictionary at `keep` (ascending) alone, null where another one was."""
    import pyarrow as pa

    kind = values.type
    places = values.indices.fill_null(0).to_numpy()
    present = values.indices.is_valid().to_numpy(zero_copy_only=False) & np.isin(places, keep)
    indices = pa.array(np.where(present, np.searchsorted(keep, places), 0), kind.index_type, mask=~present)
    return pa.DictionaryArray.from_arrays(indices, values.dictionary.take(pa.array(keep)), ordered=kind.ordered)


def _changed(values: "pa.Array", change: "Callable[[pa.DictionaryArray], pa.DictionaryArray]") -> "pa.Array":
    """`values` with all dictionaries, at any depth, as `change` makes them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if not has_dictionary(kind):
        return values
    if pa.types.is_dictionary(kind):
        return change(values)
    missing = values.is_null()
    if pa.types.is_struct(kind):
        parts = [_changed(values.field(place), change) for place in range(kind.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=missing)
    if pa.types.is_fixed_size_list(kind):
        inside = values.values.slice(values.offset * kind.list_size, len(values) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(_changed(inside, change), type=kind, mask=missing)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind)):
        return values
    first = values.offsets[0]
    offsets = pc.subtract(values.offsets, first)
    of_rows = slice(first.as_py(), values.offsets[-1].as_py())
    if pa.types.is_map(kind):
        keys, items = _changed(values.keys[of_rows], change), _changed(values.items[of_rows], change)
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=missing)
    return type(values).from_arrays(offsets, _changed(values.values[of_rows], change), type=kind, mask=missing)


def _smaller(values: "pa.DictionaryArray") -> "pa.DictionaryArray":
    held = values.dictionary
    if values.type.ordered or len(held) <= len(values) or held.nbytes <= LEAST_BYTES:
        return values
    return _used(values)


def _used(values: "pa.DictionaryArray") -> "pa.DictionaryArray":
    return renumbered(values, np.unique(values.indices.drop_null().to_numpy()))
