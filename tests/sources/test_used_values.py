import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import shards_of, source_of, table_of

from secbatch.sources.parquet_file import decoded
from secbatch.sources.used_values import LEAST_BYTES, with_used_values

VALUES = 60_000
TEXTS = pa.array([f"value number {n} of many" for n in range(VALUES)])


def places(rows, kind=None):
    """Of values in any order, some of them twice, and of nulls."""
    chosen = np.random.default_rng(1).integers(0, VALUES, rows)
    return pa.array(chosen, kind or pa.int32(), mask=np.arange(rows) % 9 == 0)


def coded(rows, ordered=False):
    return pa.DictionaryArray.from_arrays(places(rows), TEXTS, ordered=ordered)


def nested(kept, rows):
    """`rows` rows, one of five a null that has values behind it."""
    missing = pa.array(np.arange(rows) % 5 == 1)
    offsets = np.arange(0, 2 * rows + 1, 2)
    numbers = pa.array(range(2 * rows))
    if kept == "struct":
        parts = [coded(rows), numbers[:rows]]
        return pa.StructArray.from_arrays(parts, names=["d", "n"], mask=missing)
    if kept == "list":
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), coded(2 * rows), mask=missing)
    if kept == "large list":
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), coded(2 * rows), mask=missing)
    if kept == "fixed-size list":
        return pa.FixedSizeListArray.from_arrays(coded(2 * rows), 2, mask=missing)
    if kept == "map":
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), numbers, coded(2 * rows), mask=missing)
    inner = pa.StructArray.from_arrays([coded(2 * rows), numbers], names=["d", "n"])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, mask=missing)


def used(values):
    (column,) = with_used_values(pa.RecordBatch.from_arrays([values], names=["c"])).columns
    column.validate(full=True)
    assert column.type == values.type
    assert column.to_pylist() == values.to_pylist()
    return column


def test_each_thousand_rows_of_a_file_come_with_their_values_not_with_all_of_the_file(tmp_path):
    rows = 5000
    path = tmp_path / "t.parquet"
    table = pa.table({"n": range(rows), "c": coded(rows)})
    pq.write_table(table, path)
    with pq.ParquetFile(path) as file:
        batches = list(decoded(file, 0, 1024))
    assert sum(len(batch.column("c").dictionary) for batch in batches) <= rows  # once 60,000 for each batch
    assert TEXTS.nbytes > LEAST_BYTES
    shards = shards_of(path, rows=2000)
    assert max(len(shard.table.column("c").chunk(0).dictionary) for shard in shards) <= rows
    assert table_of(shards).schema == table.schema
    assert table_of(shards).to_pylist() == table.to_pylist()


def test_what_a_batch_does_not_use_does_not_count_as_its_bytes(tmp_path):
    texts = pa.array([f"{n:06}" + "x" * 500 for n in range(VALUES)])
    column = pa.DictionaryArray.from_arrays(places(8000), texts)
    pq.write_table(pa.table({"c": column}), tmp_path / "t.parquet")
    first = next(iter(source_of(tmp_path).pieces()))
    assert len(first.rows) > 4000  # once 1,024


def test_values_keep_their_order_and_none_is_left_that_no_row_uses():
    column = used(coded(500))
    texts = column.dictionary.to_pylist()
    assert sorted(texts, key=TEXTS.to_pylist().index) == texts
    assert set(texts) == set(column.to_pylist()) - {None}


@pytest.mark.parametrize("offset", [0, 7])
@pytest.mark.parametrize("kept", ["struct", "list", "large list", "fixed-size list", "map", "list of structs"])
def test_dictionaries_inside_others(kept, offset):
    values = nested(kept, 300)[offset:200]
    column = used(values)
    assert column.nbytes < LEAST_BYTES < values.nbytes


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int8(), pa.int16(), pa.uint32(), pa.int64()])
def test_places_of_any_width(kind):
    large = pa.array([f"{n}" * 20_000 for n in range(100)])
    column = used(pa.DictionaryArray.from_arrays(pa.array([99, None, 3, 99], kind), large))
    assert column.indices.to_pylist() == [1, None, 0, 1]


def test_values_of_all_kinds():
    numbers = pa.array(np.arange(200_000))
    assert len(used(pa.DictionaryArray.from_arrays(pa.array([5, 5, 2]), numbers)).dictionary) == 2
    twice = pa.concat_arrays([TEXTS, TEXTS])
    assert len(used(pa.DictionaryArray.from_arrays(pa.array([1, VALUES + 1]), twice)).dictionary) == 2
    some = pa.array([None if n % 2 else f"value number {n}" for n in range(2 * VALUES)])
    assert used(pa.DictionaryArray.from_arrays(pa.array([1, 2, None]), some)).to_pylist() == [
        None,
        "value number 2",
        None,
    ]


def test_without_rows_and_without_values():
    assert len(used(coded(0)).dictionary) == 0
    assert len(used(pa.DictionaryArray.from_arrays(pa.nulls(3, pa.int32()), TEXTS)).dictionary) == 0
    assert len(used(nested("list", 0))) == 0


def test_small_dictionaries_and_those_with_an_order_stay_whole():
    days = pa.array(["Monday", "Tuesday", "Wednesday"])
    assert used(pa.DictionaryArray.from_arrays(pa.array([2]), days)).dictionary.equals(days)
    assert used(coded(10, ordered=True)).dictionary.equals(TEXTS)
