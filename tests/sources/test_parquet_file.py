import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import rejects_of, shards_of, source_of, table_of

from secbatch.errors import InputError, JobError
from secbatch.sources import parquet_file
from secbatch.sources.parquet_file import batch_rows, decoded


def parquet(folder, name, columns, **options):
    path = folder / name
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def test_types_survive(tmp_path):
    table = pa.table(
        {
            "i": pa.array([1, None, 3], pa.int32()),
            "n": pa.array([{"a": 1, "b": ["x"]}, None, {"a": 2, "b": []}]),
            "d": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("2.25")], pa.decimal128(10, 2)),
            "t": pa.array([datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)] * 3, pa.timestamp("us", "UTC")),
            "c": pa.array(["x", "y", "x"]).dictionary_encode(),
            "s": pa.array(["", None, "007"]),
        }
    )
    path = parquet(tmp_path, "t.parquet", table)
    source = source_of(path, rows=2)
    assert source.schema == table.schema
    shards = list(source.shards())
    assert [shard.num_rows for shard in shards] == [2, 1]
    assert table_of(shards).to_pylist() == table.to_pylist()
    assert shards[1].row.to_pylist() == [3]
    assert source.bytes_read == source.bytes_total


def test_no_column_is_of_null_type(tmp_path):
    path = parquet(tmp_path, "t.parquet", {"a": pa.nulls(2), "l": pa.array([[], None], pa.list_(pa.null()))})
    shards = shards_of(path)
    assert [str(f.type) for f in shards[0].table.schema] == ["string", "list<element: string>"]
    assert shards[0].table.to_pylist() == [{"a": None, "l": []}, {"a": None, "l": None}]


def test_types_of_several_files_are_unified(tmp_path):
    parquet(tmp_path, "a.parquet", {"n": pa.array([1], pa.int32()), "s": pa.array(["x"]).dictionary_encode()})
    parquet(tmp_path, "b.parquet", {"s": pa.array(["y"]), "n": pa.array([2**40])})
    parquet(tmp_path, "c.parquet", {"s": pa.nulls(1), "n": pa.array([3.0])})
    shards = shards_of(tmp_path)
    assert table_of(shards).to_pylist() == [
        {"n": 1.0, "s": "x"},
        {"n": float(2**40), "s": "y"},
        {"n": 3.0, "s": None},
    ]
    assert table_of(shards).schema.types == [pa.float64(), pa.string()]


def test_a_value_the_common_type_cannot_hold_is_a_row_error(tmp_path):
    parquet(tmp_path, "a.parquet", {"n": pa.array([1, 2**53 + 1])})
    parquet(tmp_path, "b.parquet", {"n": pa.array([0.5])})
    (shard,) = shards_of(tmp_path)
    assert shard.table.column("n").to_pylist() == [1.0, None, 0.5]
    assert "row 2, column 'n': '9007199254740993' is not of type float64" in shard.errors[1]


def test_a_time_that_python_cannot_hold_is_named_in_its_row_error(tmp_path):
    parquet(tmp_path, "a.parquet", {"t": pa.array([2**60, 1]).cast(pa.timestamp("us"))})
    parquet(tmp_path, "b.parquet", {"t": pa.array([1]).cast(pa.timestamp("ns"))})
    (shard,) = shards_of(tmp_path)
    assert shard.table.column("t").cast(pa.int64()).to_pylist() == [None, 1000, 1]
    shown = "'<value out of range: 1152921504606846976>'"
    assert f"row 1, column 't': {shown} is not of type timestamp[ns]" in shard.errors[0]


def test_files_that_do_not_fit_together(tmp_path):
    parquet(tmp_path, "a.parquet", {"n": [1], "s": ["x"]})
    parquet(tmp_path, "b.parquet", {"n": ["one"], "s": ["x"]})
    with pytest.raises(InputError, match=r"column 'n' is int64 in .*a\.parquet but string in .*b\.parquet"):
        source_of(tmp_path)
    parquet(tmp_path, "b.parquet", {"n": [1], "s": ["x"], "extra": [1]})
    with pytest.raises(InputError, match=r"b\.parquet has the extra column 'extra', compared with .*a\.parquet"):
        source_of(tmp_path)
    parquet(tmp_path, "b.parquet", {"n": [1]})
    with pytest.raises(InputError, match=r"b\.parquet lacks column 's'"):
        source_of(tmp_path)


@pytest.mark.parametrize("place", ["0", "z"])
def test_a_file_of_an_output_among_the_input_is_said_to_be_one(tmp_path, place):
    parquet(tmp_path, "a.parquet", {"n": [1]})
    parquet(tmp_path, f"{place}.parquet", {"n": [1], "vec": [0.5], "secbatch_id": ["x"], "secbatch_row": [1]})
    said = rf"; .*{place}\.parquet is of an output of secbatch, which belongs elsewhere than among the input$"
    with pytest.raises(InputError, match=said):
        source_of(tmp_path)


def test_corrupt_file_among_good_ones(tmp_path):
    parquet(tmp_path, "a.parquet", {"n": [1]})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 this is not what it says PAR1")
    (tmp_path / "c.parquet").write_bytes(b"")
    parquet(tmp_path, "d.parquet", {"n": [2]})
    source = source_of(tmp_path)
    shards = list(source.shards())
    assert table_of(shards).column("n").to_pylist() == [1, 2]
    corrupt, empty = rejects_of(shards)
    assert corrupt.whole_file and corrupt.source.endswith("b.parquet")
    assert "is no readable Parquet file" in corrupt.reason
    assert empty.whole_file and "is empty" in empty.reason
    assert any("b.parquet is no readable Parquet file" in notice for notice in source.notices)
    for name in ("a", "d"):
        (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(InputError, match=r"b\.parquet is no readable Parquet file .*1 other files"):
        source_of(tmp_path)


def test_damage_in_the_middle_keeps_the_rows_before(tmp_path):
    text = [f"{i * 7919 % 10007} some text of row {i}" for i in range(4000)]
    path = parquet(
        tmp_path, "t.parquet", {"s": text}, row_group_size=1000, use_dictionary=False, write_page_checksum=True
    )
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 200 : start + 260] = b"\xff" * 60
    path.write_bytes(content)
    shards = shards_of(path)
    assert table_of(shards).column("s").to_pylist() == text[:2000]
    (reject,) = rejects_of(shards)
    assert reject.whole_file
    assert "corrupt after row 2000" in reject.reason


def test_a_page_that_is_taken_for_none_of_data_loses_no_row_in_silence(tmp_path):
    path = parquet(tmp_path, "t.parquet", {"n": range(4000)}, row_group_size=1000, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 1] = 2  # the kind of a page of an index
    path.write_bytes(content)
    shards = shards_of(path)
    assert table_of(shards).column("n").to_pylist() == list(range(2000))
    (reject,) = rejects_of(shards)
    assert reject.whole_file
    assert "corrupt after row 2000 (row group 3 holds 0 of the 1,000 rows that the footer says)" in reject.reason


def test_a_footer_that_contradicts_itself_about_rows_is_refused(tmp_path):
    path = parquet(tmp_path, "t.parquet", {"n": range(4000)}, row_group_size=1000)
    content = path.read_bytes()
    assert content.count(b"\x16\xc0\x3e") == 1  # 4,000 as an integer of Thrift, of 64 bits
    path.write_bytes(content.replace(b"\x16\xc0\x3e", b"\x16\x80\x7d"))
    with pytest.raises(InputError, match=r"footer says 8,000 rows, and 4,000 for all row groups"):
        source_of(path)


def test_text_that_is_no_utf8_is_a_row_error(tmp_path):
    raw = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = parquet(tmp_path, "t.parquet", {"n": [1, 2, 3], "s": bad})
    (shard,) = shards_of(path)
    assert shard.table.column("s").to_pylist() == ["good", None, "fine"]
    assert "row 2, column 's': not valid UTF-8" in shard.errors[1]


def test_a_file_without_columns_is_said(tmp_path):
    with pytest.raises(InputError, match=r"t\.parquet has no columns"):
        source_of(parquet(tmp_path, "t.parquet", pa.table({})))


def test_duplicate_columns_and_types_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(InputError, match="names 'a' more than once"):
        source_of(parquet(tmp_path, "t.parquet", table))
    path = parquet(tmp_path, "u.parquet", {"a": [1]})
    with pytest.raises(JobError, match="Parquet columns keep the types they have"):
        source_of(path, types={"a": "string"})


def test_no_rows(tmp_path):
    path = parquet(tmp_path, "t.parquet", {"a": pa.array([], pa.int64())})
    source = source_of(path)
    assert list(source.shards()) == []
    assert source.notices == (f"{path} holds no rows",)


def test_batches_stay_small_where_rows_are_large(tmp_path):
    path = parquet(tmp_path, "t.parquet", {"s": ["x" * 100_000] * 300}, use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert 100 < batch_rows(group) < 200
    shards = shards_of(path)
    assert sum(shard.num_rows for shard in shards) == 300


def test_nested_types_over_files(tmp_path):
    parquet(tmp_path, "a.parquet", {"s": [{"a": 1}], "l": pa.array([[1]], pa.list_(pa.int32()))})
    parquet(tmp_path, "b.parquet", {"s": [{"a": 2}], "l": pa.array([[2**40]])})
    assert table_of(shards_of(tmp_path)).to_pylist() == [{"s": {"a": 1}, "l": [1]}, {"s": {"a": 2}, "l": [2**40]}]


def test_dictionaries_inside_nested_types(tmp_path):
    for name, words in (("a", ["x", "y"]), ("b", ["z", "x"])):
        values = pa.StructArray.from_arrays([pa.array(words).dictionary_encode()], names=["d"])
        parquet(tmp_path, f"{name}.parquet", pa.table({"s": values}))
    assert [row["s"]["d"] for row in table_of(shards_of(tmp_path)).to_pylist()] == ["x", "y", "z", "x"]


def test_a_column_without_values_in_one_file_takes_the_type_of_the_other(tmp_path):
    for place, (number, nested) in enumerate([(pa.nulls(2), [[None], None]), (pa.array([1, 2]), [[{"x": 1}], []])]):
        pq.write_table(pa.table({"n": number, "l": nested, "z": pa.nulls(2)}), tmp_path / f"{place}.parquet")
    table = table_of(shards_of(tmp_path))
    assert [str(kind) for kind in table.schema.types] == ["int64", "list<element: struct<x: int64>>", "string"]
    assert table.column("n").to_pylist() == [None, None, 1, 2]
    assert table.column("l").to_pylist() == [[None], None, [{"x": 1}], []]


def test_invalid_text_inside_a_list_costs_its_row_only(tmp_path):
    offsets = pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0\5\0\0\0")
    texts = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"ok\xffyes"))
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), texts)
    (shard,) = shards_of(parquet(tmp_path, "t.parquet", {"l": lists, "s": pa.array(["a", "b", "c"])}))
    assert shard.table.to_pylist() == [{"l": ["ok"], "s": "a"}, {"l": None, "s": "b"}, {"l": ["ye"], "s": "c"}]
    assert list(shard.errors) == [1]
    assert "row 2, column 'l': not valid UTF-8" in shard.errors[1]


@pytest.mark.parametrize("kept", ["text", "ordered", "list", "struct"])
@pytest.mark.parametrize("used", [True, False])
def test_a_dictionary_with_invalid_text_costs_the_rows_that_use_it_only(tmp_path, kept, used):
    raw = pa.array([b"low", b"caf\xe9", b"high"], pa.binary())
    texts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    places = pa.array([0, 2, None, 1 if used else 2, 0], pa.int32())
    column = pa.DictionaryArray.from_arrays(places, texts, ordered=kept == "ordered")
    if kept == "list":
        column = pa.ListArray.from_arrays(pa.array(range(6), pa.int32()), column)
    elif kept == "struct":
        column = pa.StructArray.from_arrays([column], names=["d"])
    (shard,) = shards_of(parquet(tmp_path, "t.parquet", pa.table({"n": range(5), "c": column})))
    values = shard.table.column("c")
    shard.table.validate(full=True)  # nor is the invalid value left where no row uses it
    assert shard.table.schema.types == [pa.int64(), column.type]
    inside = {"list": lambda text: [text], "struct": lambda text: {"d": text}}.get(kept, lambda text: text)
    fourth = None if used else inside("high")
    assert values.to_pylist() == [inside("low"), inside("high"), inside(None), fourth, inside("low")]
    assert list(shard.errors) == ([3] if used else [])
    if used:
        assert "row 4, column 'c': not valid UTF-8" in shard.errors[3]
    if kept == "ordered":
        assert values.chunk(0).dictionary.to_pylist() == ["low", "high"]


def test_a_row_with_two_faults_names_both_and_how_to_mend_them(tmp_path):
    big = pa.array([2**60 + 1, 1])
    parquet(tmp_path, "0.parquet", {"a": big, "b": big})
    parquet(tmp_path, "1.parquet", {"a": pa.array([0.5]), "b": pa.array([0.5])})
    (shard,) = shards_of(tmp_path)
    assert list(shard.errors) == [0]
    assert shard.errors[0].count(f"0.parquet, row 1, column 'a': '{2**60 + 1}' is not of type float64") == 1
    assert "column 'b'" in shard.errors[0]
    assert "write the files with one type" in shard.errors[0]
    assert "input.types" not in shard.errors[0]


def test_a_text_repeated_in_every_row_does_not_fill_memory(tmp_path):
    """Parquet stores it once; decoded it is a thousand times as large."""
    document, rows = "x" * (100 << 10), 6000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [document])
    path = parquet(tmp_path, "t.parquet", pa.table({"d": column, "n": range(rows)}), store_schema=False)
    before = pa.total_allocated_bytes()
    numbers: list[int] = []
    largest = 0
    for shard in source_of(path, rows=65_536).shards():
        assert str(shard.table.schema.field("d").type) == "string"
        numbers += shard.table.column("n").to_pylist()
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert numbers == list(range(rows))
    assert largest < 300 << 20  # of 586 MiB: the batch that is cut up, and the shards cut from it


@pytest.mark.parametrize("kept", ["dictionary", "list", "struct", "two columns", "prefixes"])
def test_a_large_text_that_a_file_stores_once_is_decoded_in_few_rows_at_a_time(tmp_path, kept):
    document, rows = "x" * (512 << 10), 1200
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [document])
    options = {"store_schema": False}
    table = pa.table({"n": range(rows), "d": texts})
    if kept == "list":
        offsets = pa.array(range(rows + 1), pa.int32())
        table = pa.table({"n": range(rows), "d": pa.ListArray.from_arrays(offsets, texts)})
    elif kept == "struct":
        table = pa.table({"n": range(rows), "d": pa.StructArray.from_arrays([texts], names=["t"])})
    elif kept == "two columns":
        table = table.append_column("e", texts)
    elif kept == "prefixes":  # each text is what it shares with the one before, and the rest
        table = table.cast(pa.schema([("n", pa.int64()), ("d", pa.string())]))
        options |= {"use_dictionary": False, "column_encoding": {"d": "DELTA_BYTE_ARRAY"}}
    path = parquet(tmp_path, "t.parquet", table, **options)
    assert path.stat().st_size < 100_000
    del table, texts
    before = pa.total_allocated_bytes()
    numbers: list[int] = []
    largest = 0
    for shard in source_of(path, rows=65_536).shards():
        numbers += shard.table.column("n").to_pylist()
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert numbers == list(range(rows))
    assert largest < 250 << 20  # of 600 MiB, or twice that: the first rows, and the shards cut from them


@pytest.mark.parametrize("kept", ["plain", "dictionary", "list"])
def test_a_row_that_is_too_large_is_rejected_and_the_others_go_on(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(parquet_file, "RECORD_LIMIT", 1 << 20)
    texts = pa.array(["a", "b" * (2 << 20), "c", None, "d" * (1 << 19), "e" * (3 << 20), "f" * (1 << 19)])
    if kept == "dictionary":
        texts = texts.dictionary_encode()
    elif kept == "list":
        texts = pa.array([text and [text] for text in texts.to_pylist()])
    shards = shards_of(parquet(tmp_path, "t.parquet", pa.table({"n": range(7), "t": texts})))
    rows = table_of(shards)
    assert rows.column("n").to_pylist() == [0, 2, 3, 4, 6]
    assert rows.column("t").to_pylist() == [texts[n].as_py() for n in (0, 2, 3, 4, 6)]
    assert [number for shard in shards for number in shard.row.to_pylist()] == [1, 3, 4, 5, 7]
    assert [reject.reason for reject in rejects_of(shards)] == [
        "row 2 is of 2 MiB, more than 1 MiB; shorten its values",
        "row 6 is of 3 MiB, more than 1 MiB; shorten its values",
    ]
    assert not any(reject.whole_file for reject in rejects_of(shards))


def test_rows_of_one_size_are_decoded_in_batches_that_grow(tmp_path):
    path = parquet(tmp_path, "t.parquet", {"n": range(300_000), "s": [f"{n}" * 20 for n in range(300_000)]})
    with pq.ParquetFile(path) as file:
        sizes = [batch.num_rows for batch in decoded(file, 0, 1024)]
    assert sum(sizes) == 300_000
    assert sizes[0] < 64 and set(sizes[4:-1]) == {1024}


def test_the_schema_of_many_columns_is_made_once_for_a_row_group(tmp_path, monkeypatch):
    path = parquet(tmp_path, "t.parquet", {f"c{n}": [n, n] for n in range(50)})
    monkeypatch.setattr(parquet_file, "FIRST_BYTES", 1)  # no row group is a small one
    made = []
    schema = pq.ParquetFile.schema_arrow.fget
    monkeypatch.setattr(pq.ParquetFile, "schema_arrow", property(lambda file: made.append(1) or schema(file)))
    with pq.ParquetFile(path) as file:
        assert sum(batch.num_rows for batch in decoded(file, 0, 1024)) == 2
    assert len(made) == 1  # once one for each column


def test_large_rows_behind_short_ones_of_their_row_group_are_decoded_few_at_a_time(tmp_path):
    texts = [f"{n}" for n in range(20_000)] + ["x" * (2 << 20)] * 80
    options = {"use_dictionary": False, "compression": "none", "write_batch_size": 1}  # a page for each large one
    path = parquet(tmp_path, "t.parquet", {"n": range(len(texts)), "s": texts}, row_group_size=len(texts), **options)
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        batches = [(batch.num_rows, batch.nbytes) for batch in decoded(file, 0, 1024)]
    assert sum(rows for rows, _ in batches) == len(texts)
    assert max(size for _, size in batches) < 64 << 20  # of 160 MiB: 1,024 rows, however large, had been a batch
    assert batches[1][0] > 1  # it is not one by one


def test_a_file_of_one_large_row_group_is_not_held_whole(tmp_path):
    rows = 100_000
    table = pa.table({"n": range(rows), "text": [f"{n}" * 200 for n in range(rows)]})
    path = parquet(tmp_path, "t.parquet", table, row_group_size=rows, compression="none", use_dictionary=False)
    size = path.stat().st_size
    assert size > 90 << 20
    del table
    before = pa.total_allocated_bytes()
    largest = seen = 0
    for piece in source_of(path).pieces():
        assert piece.table.column("text")[0].as_py() == f"{seen}" * 200
        seen += len(piece.rows)
        largest = max(largest, pa.total_allocated_bytes() - before)
        del piece
    assert seen == rows
    assert largest < 64 << 20


def test_small_batches_are_joined(tmp_path):
    nested = pa.array([["a", "b"], ["a"]] * 2000, pa.list_(pa.dictionary(pa.int32(), pa.string())))
    path = parquet(tmp_path, "t.parquet", pa.table({"n": range(4000), "l": nested}))
    pieces = list(source_of(path).pieces())
    assert [len(piece.rows) for piece in pieces] in ([4000], [1024, 1024, 1024, 928])
    assert pa.concat_tables([piece.table for piece in pieces]).to_pylist() == pq.read_table(path).to_pylist()


def test_views_are_read_as_plain_text_and_bytes(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["One. Two.", None, "x" * 100], pa.string_view()),
            "v": pa.array(["a", "b", None], pa.string_view()),
            "b": pa.array([b"\xff", None, b"y" * 100], pa.binary_view()),
        }
    )
    path = parquet(tmp_path, "t.parquet", table)
    assert [str(kind) for kind in source_of(path).schema.types] == ["string", "string", "binary"]
    assert table_of(shards_of(path)).to_pylist() == table.to_pylist()
    split = table_of(shards_of(path, sentences="text"))
    assert split.column("sentence").to_pylist() == ["One.", "Two.", None, "x" * 100]
    assert split.column("b").to_pylist() == [b"\xff", b"\xff", None, b"y" * 100]


@pytest.mark.parametrize("first", [0, 1])
def test_views_in_one_file_are_plain_text_and_bytes_in_another(tmp_path, first):
    def rows(text, binary, whole):
        types = {"b": binary, "l": pa.list_(text), "m": pa.map_(pa.string(), binary), "n": pa.list_(whole)}
        values = {"b": [b"\xff" * 40], "l": [["a", "b" * 40]], "m": [[("k", b"x")]], "n": [[None]]}
        return pa.table({name: pa.array(values[name], kind) for name, kind in types.items()})

    tables = [rows(pa.string_view(), pa.binary_view(), pa.null()), rows(pa.large_string(), pa.binary(), pa.int64())]
    for name, table in zip(("a.parquet", "b.parquet"), (tables[first], tables[1 - first]), strict=True):
        parquet(tmp_path, name, table)
    table = table_of(shards_of(tmp_path))
    assert [str(table.schema.field(name).type) for name in "bl"] == ["binary", "list<element: large_string>"]
    assert table.schema.field("n").type.value_type == pa.int64()
    assert table.to_pylist() == [*tables[0].to_pylist(), *tables[1].to_pylist()]


def test_tensors_are_read_as_the_lists_that_they_are_stored_as(tmp_path):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    path = parquet(tmp_path, "t.parquet", pa.table({"n": [1, 2, 3], "t": tensors}))
    rows = table_of(shards_of(path))
    assert str(rows.schema.field("t").type) == "fixed_size_list<item: float>[4]"
    assert rows.column("t").to_pylist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("plain_footer", [True, False])
def test_encrypted_files(tmp_path, plain_footer):
    import base64

    import pyarrow.parquet.encryption as encryption

    class Keys(encryption.KmsClient):
        def __init__(self, _):
            super().__init__()

        def wrap_key(self, key, _):
            return base64.b64encode(key)

    configuration = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["text"]}, plaintext_footer=plain_footer
    )
    factory = encryption.CryptoFactory(Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
    path = parquet(tmp_path, "t.parquet", {"id": ["1"], "text": ["a"]}, encryption_properties=properties)
    said = "is encrypted; write it again without encryption"
    with pytest.raises(InputError, match=rf"t\.parquet {said}"):
        source_of(path)
    parquet(tmp_path, "u.parquet", {"id": ["1"], "text": ["a"]})
    [reject] = rejects_of(shards_of(tmp_path))  # beside others
    assert reject.reason == f"the file {said}" and reject.whole_file


def test_a_page_that_does_not_have_its_checksum_is_corrupt(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"n": np.arange(1000)})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False, row_group_size=500)
    second = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[second + 200] ^= 1
    path.write_bytes(content)
    shards = shards_of(path)
    assert table_of(shards).column("n").to_pylist() == list(range(500))
    (reject,) = rejects_of(shards)
    assert reject.whole_file and "is corrupt after row 500" in reject.reason
