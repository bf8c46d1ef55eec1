"""The size of values does not depend on how they lie in memory."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.value_bytes import read_back_alike, value_bytes

WORDS = pa.struct([("word", pa.string()), ("score", pa.float32())])
COLUMNS = {
    "text": pa.array(["", "é", None, "long " * 9, "b"]),
    "large": pa.array(["", "é", None, "long " * 9, "b"], pa.large_string()),
    "binary": pa.array([b"1", None, b"", b"22", b"333"]),
    "numbers": pa.array([1, None, 3, 4, 5], pa.int16()),
    "truth": pa.array([True, None, False, True, True]),
    "lists": pa.array([[1.0, 2.0], None, [], [3.0], [4.0]], pa.list_(pa.float32())),
    "pairs": pa.array([[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], pa.list_(pa.float32(), 2)),
    "words": pa.array(
        [[{"word": "a", "score": 1.0}], None, [], [None], [{"word": None, "score": 2.0}]], pa.list_(WORDS)
    ),
    "nothing": pa.nulls(5),
    "repeating": pa.array(["a", "long " * 9, None, "a", "long " * 9]).dictionary_encode(),
    "repeating numbers": pa.array([1, 2, None, 1, 2]).dictionary_encode(),
    "when": pa.array([1, None, 3, 4, 5], pa.timestamp("ms")),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_made_cut_joined_or_read_back(name: str) -> None:
    table = pa.table({name: COLUMNS[name]})
    size = value_bytes(table)
    assert size > 0
    assert sum(value_bytes(table.slice(row, 1)) for row in range(5)) == size
    assert value_bytes(pa.concat_tables([table.slice(0, 2), table.slice(2)])) == size
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert value_bytes(pq.read_table(sink)) == size


def test_a_dictionary_counts_as_often_as_its_values_stand() -> None:
    values = pa.array(["a", "long " * 99, "long " * 99])
    assert value_bytes(pa.table({"text": values.dictionary_encode()})) == value_bytes(pa.table({"text": values}))
    few = pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), values)
    assert value_bytes(pa.table({"text": few})) == value_bytes(pa.table({"text": ["a", None]}))


def test_what_is_beneath_a_null_does_not_count() -> None:
    values = pa.Array.from_buffers(
        pa.string(),
        2,
        [pa.py_buffer(b"\x01"), pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0])), pa.py_buffer(b"x" * 9)],
    )
    assert values.to_pylist() == ["x", None]
    assert value_bytes(pa.table({"text": values})) == value_bytes(pa.table({"text": ["x", None]}))


@pytest.mark.parametrize("kind", [pa.map_(pa.string(), pa.int8()), pa.dictionary(pa.int8(), pa.string())])
def test_what_comes_back_otherwise_is_told(kind: pa.DataType) -> None:
    assert not read_back_alike(kind) and not read_back_alike(pa.list_(pa.struct([("inner", kind)])))
    assert read_back_alike(pa.list_(WORDS)) and read_back_alike(pa.decimal128(9, 2))
