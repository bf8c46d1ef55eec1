"""Digests of rows: BLAKE2b of 128 bits, as arrays of uint64 [n, 2]; no Python object is kept for a row.

Those of whole columns are computed by code of our own (row_digests.c) where it is compiled: hashlib takes one value a
call, and for as long as a shard's take, Python's lock with it.
"""

import hashlib
import json
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.no_python_object import NO_OBJECT

_INTERFACE = 2  # row_digests.c; code without a number is of the first

try:
    from secbatch import row_digests as _code
except ImportError:  # no C compiler at installation, or a processor with the other order of bytes
    _code = None  # type: ignore[assignment]
else:
    if getattr(_code, "INTERFACE", 1) != _INTERFACE:  # left by an earlier installation: sources changed, it did not
        _code = None  # type: ignore[assignment]

_JSON = json.JSONEncoder(sort_keys=True, default=repr)
_MARK = "\0"
_BETWEEN = f", {_JSON.encode(_MARK)}, "
_TOGETHER = 1024  # nested values that are Python objects at a time

NULL = hashlib.blake2b(b"", digest_size=16, person=b"null").digest()


def digests(texts: list[bytes | None]) -> np.ndarray:
    """uint64 [n, 2]; None has a digest of its own."""
    start = hashlib.blake2b(digest_size=16).copy  # a copy costs less than a new one with its parameters
    made = []
    for text in texts:
        if text is None:
            made.append(NULL)
        else:
            state = start()
            state.update(text)
            made.append(state.digest())
    return np.frombuffer(b"".join(made), dtype="<u8").reshape(-1, 2)


def column_digests(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """uint64 [n, 2]: of texts, as UTF-8, or bytes; nulls have a digest of their own."""
    made = np.empty((len(column), 2), dtype="<u8")
    done = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else (column,):
        _fill(made[done : done + len(chunk)], chunk)
        done += len(chunk)
    return made


def _fill(made: np.ndarray, chunk: pa.Array) -> None:
    wide = pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type)
    if _code is None or not (wide or pa.types.is_string(chunk.type) or pa.types.is_binary(chunk.type)):
        made[:] = digests(chunk.cast(pa.large_binary()).to_pylist())
    elif len(chunk):
        chunk.validate()  # its buffers are as long as they have to be
        valid, offsets, values = chunk.buffers()
        addresses = values.address if values else 0, offsets.address, valid.address if valid else 0, made.ctypes.data
        _code.column(addresses, (values.size if values else 0, chunk.offset, len(chunk)), wide, NULL)


def hash_columns(table: pa.Table, columns: list[str]) -> np.ndarray:
    """uint64 [n, 2]: of what stands in `columns` (distinct names), whatever their order in the table."""
    if len(columns) == 1:
        return column_digests(as_text(table.column(columns[0])))
    return _row_digests(table, columns)


def hash_content(table: pa.Table) -> np.ndarray:
    """uint64 [n, 2]: of all columns' names and values, whatever the columns' order."""
    return _row_digests(table, table.column_names)


def _row_digests(table: pa.Table, columns: list[str]) -> np.ndarray:
    """uint64 [n, 2]: of texts made of each column's name, its value's length or 'null', and its value."""
    texts = {f"{name}=": as_text(table.column(name)) for name in sorted(columns)}
    if not texts:
        return column_digests(pa.repeat(pa.scalar("", pa.large_string()), table.num_rows))
    if _code is None:
        return column_digests(_joined(texts))
    made = np.empty((table.num_rows, 2), dtype="<u8")
    done = 0
    for batch in pa.table(texts).to_batches():  # of columns whose chunks have the same rows
        _fill_rows(made[done : done + batch.num_rows], batch)
        done += batch.num_rows
    return made


def _fill_rows(made: np.ndarray, batch: pa.RecordBatch) -> None:
    described = []
    for label, text in zip(batch.schema.names, batch.columns, strict=True):
        text.validate()  # its buffers are as long as they have to be
        valid, offsets, values = text.buffers()
        address, size = (values.address, values.size) if values else (0, 0)
        described.append((label.encode(), address, offsets.address, valid.address if valid else 0, size, text.offset))
    _code.rows(tuple(described), batch.num_rows, made.ctypes.data)


def _joined(texts: dict[str, pa.ChunkedArray]) -> pa.ChunkedArray:
    pieces: list[pa.ChunkedArray | pa.Scalar] = []
    empty = pa.scalar("", pa.large_string())
    for label, text in texts.items():
        length = pc.fill_null(pc.cast(pc.binary_length(text), pa.large_string()), pa.scalar("null", pa.large_string()))
        pieces += [pa.scalar(label, pa.large_string()), length, pa.scalar(":", pa.large_string())]
        pieces.append(pc.fill_null(text, empty))
    return pc.binary_join_element_wise(*pieces, empty)


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as large strings, nulls kept; a faithful one, so that different values have different texts."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        stored = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        if kind.extension_name != "arrow.uuid":
            return as_text(stored)
        values = [None if value is None else str(UUID(bytes=value)) for value in stored.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.large_string())])
    if pa.types.is_nested(kind):
        starts = range(0, len(column), _TOGETHER)
        texts = [_json_texts(_values(column.slice(start, _TOGETHER))) for start in starts]
        return pa.chunked_array([pa.array(some, pa.large_string()) for some in texts], pa.large_string())
    if pa.types.is_timestamp(kind) and not _zone_is_known(kind):
        column = column.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_timestamp(kind) and column.type.tz == "UTC":
        return _in_utc(column)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        values = [None if value is None else value.hex() for value in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.large_string())])
    return column.cast(pa.large_string())


def _in_utc(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """As Arrow casts times of UTC, which takes it twelve times as long as for those of no zone."""
    there = column.cast(pa.timestamp(column.type.unit)).cast(pa.large_string())
    if pc.any(pc.starts_with(there, "<")).as_py():  # "<value out of range: …>", beyond the years that it knows
        return column.cast(pa.large_string())
    return pc.binary_join_element_wise(there, pa.scalar("Z", pa.large_string()), pa.scalar("", pa.large_string()))


def _json_texts(values: list[Any]) -> list[str | None]:
    """JSON of each value but None; of all at once, since Python makes an encoder for each call."""
    parted = [piece for value in values for piece in (value, _MARK)]
    texts = _JSON.encode(parted[:-1])[1:-1].split(_BETWEEN)
    if len(texts) != len(values):  # one of them holds the mark
        texts = [_JSON.encode(value) for value in values]
    return [None if value is None else text for value, text in zip(values, texts, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python objects of nested values; with numbers for dates and times that Python has no objects for."""
    try:
        values: list[Any] = column.to_pylist()
    except NO_OBJECT:  # one of them; what the others are must not depend on it
        values = [_value(one) for one in column]
    return values


def _value(one: pa.Scalar) -> Any:
    try:
        return one.as_py()
    except NO_OBJECT:
        return _with_numbers(one)


def _with_numbers(one: pa.Scalar) -> Any:
    """The Python object of a value, with integers for dates and times, at any depth."""
    kind = one.type
    if not one.is_valid:
        return None
    if pa.types.is_temporal(kind):
        return one.value
    if pa.types.is_dictionary(kind):
        return _with_numbers(one.value)
    if pa.types.is_struct(kind):
        return {name: _with_numbers(part) for name, part in one.items()}
    if pa.types.is_map(kind):
        return [(_with_numbers(pair["key"]), _with_numbers(pair["value"])) for pair in one.values]
    return [_with_numbers(part) for part in one.values] if pa.types.is_nested(kind) else one.as_py()


def _zone_is_known(kind: pa.DataType) -> bool:
    try:
        pc.local_timestamp(pa.scalar(0, kind))
    except pa.ArrowInvalid:
        return False
    return True


def mixed(digest: np.ndarray, number: np.ndarray) -> np.ndarray:
    """uint64 [n, 2]: `digest` with a number (uint64 [n]) worked into it; unchanged where the number is 0."""
    result = digest.copy()
    result[:, 1] ^= spread(number)
    return result


def spread(number: np.ndarray) -> np.ndarray:
    """uint64 [n]: splitmix64's finaliser, which is a permutation that keeps 0."""
    value = number.astype(np.uint64)
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash_places(source: pa.Array, row: pa.Array) -> np.ndarray:
    """uint64 [n]: of the file and row number of each row."""
    encoded = source if pa.types.is_dictionary(source.type) else source.dictionary_encode()
    names = digests([name.encode() for name in encoded.dictionary.to_pylist()])[:, 0]
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    if not len(codes):
        return np.empty(0, np.uint64)
    return spread(names[codes] ^ row.to_numpy(zero_copy_only=False).astype(np.uint64))


def hexadecimal(digest: np.ndarray) -> list[str]:
    """32 hex digits each."""
    texts: list[str] = hexadecimal_column(digest).to_pylist()
    return texts


def hexadecimal_column(digest: np.ndarray) -> pa.LargeStringArray:
    """As `hexadecimal`, large_string [n]."""
    text = np.ascontiguousarray(digest, dtype="<u8").tobytes().hex().encode()
    ends = np.arange(0, len(text) + 1, 32, dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(digest), pa.py_buffer(ends), pa.py_buffer(text))
