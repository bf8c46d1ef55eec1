import gzip
import json
import tracemalloc
import zlib

import pytest
from helpers import rejects_of, rows_of, shards_of, source_of, table_of, written

from secbatch.errors import InputError
from secbatch.sources import jsonl_columns, jsonl_file, jsonl_lines


def lines(*objects):
    return "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects)


def test_types_are_inferred_once(tmp_path):
    path = written(
        tmp_path,
        "t.jsonl",
        lines(
            {"i": 1, "f": 1, "b": True, "s": "007", "n": {"a": [1, "é"]}, "m": 1, "z": None},
            {"i": None, "f": 2.5, "s": "x", "m": "one", "big": 2**70},
        ),
    )
    source = source_of(path)
    assert dict(zip(source.schema.names, map(str, source.schema.types), strict=True)) == {
        **{"i": "int64", "f": "double", "b": "bool", "s": "string", "n": "string", "m": "string"},
        **{"z": "string", "big": "string"},
    }
    rows = table_of(list(source.shards())).to_pylist()
    assert rows[0] == {
        **{"i": 1, "f": 1.0, "b": True, "s": "007", "n": '{"a": [1, "é"]}', "m": "1", "z": None, "big": None}
    }
    assert rows[1]["big"] == str(2**70)
    assert rows[1]["m"] == "one"


def test_what_comes_later_does_not_change_types(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl_columns, "SAMPLE_BYTES", 20)
    path = written(
        tmp_path,
        "t.jsonl",
        lines({"id": 1, "s": "abcdefgh"}, {"id": "two", "s": 2}, {"id": 3.0, "new": 1}, {"id": 4.5, "s": None}),
    )
    (shard,) = shards_of(path)
    assert shard.table.to_pylist() == [
        {"id": 1, "s": "abcdefgh"},
        {"id": None, "s": "2"},
        {"id": 3, "s": None},
        {"id": None, "s": None},
    ]
    assert set(shard.errors) == {1, 2, 3}
    assert "row 2, column 'id': 'two' is not of type int64" in shard.errors[1]
    assert "row 3: key 'new' is not among the columns" in shard.errors[2]
    assert "input.types: {new: string}" in shard.errors[2]


def test_declared_types(tmp_path):
    path = written(tmp_path, "t.jsonl", lines({"id": 1, "d": "2024-01-01"}, {"id": "x", "d": None}))
    (shard,) = shards_of(path, types={"id": "int64", "d": "date", "rare": "float64"})
    assert [str(t) for t in shard.table.schema.types] == ["int64", "date32[day]", "double"]
    assert set(shard.errors) == {1}


def test_a_whole_float_fits_a_declared_integer_column(tmp_path):
    path = written(tmp_path, "t.jsonl", lines({"id": 1.0}, {"id": "2"}, {"id": 3}, {"id": 4.5}, {"id": 1e17}))
    (shard,) = shards_of(path, types={"id": "int64"})
    assert shard.table.column("id").to_pylist() == [1, 2, 3, None, None]
    assert set(shard.errors) == {3, 4}


def test_undecodable_bytes_in_a_named_encoding_name_that_encoding(tmp_path):
    path = written(tmp_path, "t.jsonl", b'{"s": "caf\xe9"}\n{"s": "\x81"}\n')
    shards = shards_of(path, encoding="cp1252")
    assert table_of(shards).column("s").to_pylist() == ["café"]
    (reject,) = rejects_of(shards)
    assert "the line is not valid cp1252 (byte 0x81); name the file's encoding" in reject.reason
    assert reject.raw == b'{"s": "\x81"}'


def test_bad_lines_are_rejected_with_their_place(tmp_path):
    good = b'{"id": 1}\n'
    bad = [b'{"id": 2\n', b"[1, 2]\n", b'{"id": "\xff"}\n', b"[" * 100_000 + b"\n", b'{"id": ' + b"9" * 5000 + b"}\n"]
    path = written(tmp_path, "t.jsonl", b"\xef\xbb\xbf" + good + b"\n" + b"".join(bad) + b'{"id": 9}')
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == [1, 9]
    rejects = rejects_of(shards)
    assert [r.line for r in rejects] == [3, 4, 5, 6, 7]
    assert [r.raw + b"\n" for r in rejects] == bad
    assert rejects[0].byte_offset == 3 + len(good) + 1
    for reject, reason in zip(
        rejects,
        ["not valid JSON", "not a JSON object", "not valid UTF-8 .byte 0xff", "nested too deeply", "too long"],
        strict=True,
    ):
        assert __import__("re").search(reason, reject.reason), reject.reason
    assert shards[0].row.to_pylist() == [1, 7]


def test_lone_surrogates_are_a_row_error(tmp_path):
    path = written(tmp_path, "t.jsonl", '{"id": 1, "s": "\\ud800"}\n{"id": 2, "s": "ok"}\n')
    (shard,) = shards_of(path)
    assert shard.table.column("s").to_pylist() == [None, "ok"]
    assert set(shard.errors) == {0}


def test_thousands_of_small_files_make_few_shards(tmp_path):
    for i in range(600):
        written(tmp_path, f"{i:04d}.jsonl", lines({"id": i}))
    shards = shards_of(tmp_path, rows=lambda index: 50 if index == 0 else 500)
    assert [shard.num_rows for shard in shards] == [50, 500, 50]
    assert table_of(shards).column("id").to_pylist() == list(range(600))
    assert shards[0].source[1].as_py().endswith("0001.jsonl")
    assert set(shards[1].row.to_pylist()) == {1}


def test_compressed_and_truncated(tmp_path):
    text = lines(*({"id": i, "s": f"{i * 7919 % 10007}"} for i in range(20000))).encode()
    packed = gzip.compress(text)
    assert len(rows_of(written(tmp_path, "t.jsonl.gz", packed))) == 20000
    shards = shards_of(written(tmp_path, "u.jsonl.gz", packed[: len(packed) // 2]))
    rows = table_of(shards).num_rows
    assert 100 < rows < 20000
    (reject,) = rejects_of(shards)
    assert reject.whole_file and reject.line == rows + 1


def test_a_line_beyond_the_limit(tmp_path, monkeypatch):
    for module in (jsonl_lines, jsonl_file):
        monkeypatch.setattr(module, "RECORD_LIMIT", 5 << 20)
    path = written(tmp_path, "t.jsonl", lines({"s": "a"}, {"s": "x" * (13 << 20)}, {"s": "b"}))
    shards = shards_of(path)
    assert table_of(shards).column("s").to_pylist() == ["a", "b"]
    (reject,) = rejects_of(shards)
    assert reject.line == 2
    assert "longer than 5 MiB" in reject.reason


def test_nothing_usable(tmp_path):
    with pytest.raises(InputError, match="no line at the start of the input is a JSON object"):
        source_of(written(tmp_path, "t.jsonl", "[\n1,\n2\n]\n"))
    with pytest.raises(InputError, match=r"e\.jsonl is empty"):
        source_of(written(tmp_path, "e.jsonl", ""))


def test_a_key_with_half_a_character_rejects_its_line(tmp_path):
    path = written(tmp_path, "t.jsonl", '{"a": 1}\n{"a": 2, "\\ud800": 1}\n{"a": 3, "\\ud83d\\ude00": "\\u00e9"}\n')
    shards = shards_of(path)
    assert table_of(shards).to_pylist() == [{"a": 1, "😀": None}, {"a": 3, "😀": "é"}]
    (reject,) = rejects_of(shards)
    assert reject.line == 2
    assert "the key '\\ud800' holds half a character" in reject.reason


def test_nesting_at_any_depth_is_a_row_or_a_reject(tmp_path):
    depths = [400, 600, *range(930, 1000), 5000]
    text = "".join(f'{{"a": {"[" * depth}{"]" * depth}}}\n' for depth in depths)
    shards = shards_of(written(tmp_path, "t.jsonl", text + '{"a": "x"}\n'))
    assert table_of(shards).column("a").to_pylist() == ["[" * 400 + "]" * 400, "x"]
    assert [reject.line for reject in rejects_of(shards)] == list(range(2, len(depths) + 1))
    assert all("nested too deeply" in reject.reason for reject in rejects_of(shards))


def test_many_brackets_that_are_not_nested_are_a_row(tmp_path):
    wide = json.dumps([[number] for number in range(600)])
    assert table_of(shards_of(written(tmp_path, "t.jsonl", f'{{"a": {wide}}}\n'))).column("a").to_pylist() == [wide]


def test_objects_without_keys_are_said(tmp_path):
    with pytest.raises(InputError, match=r"t\.jsonl: the objects .* are empty: there are no columns"):
        source_of(written(tmp_path, "t.jsonl", "{}\n{}\n"))


def test_an_archive_that_breaks_off_in_its_first_line_is_said(tmp_path):
    path = written(tmp_path, "t.jsonl.gz", gzip.compress(lines({"a": "some text"}, {"a": "more"}).encode())[:20])
    with pytest.raises(InputError, match=r"t\.jsonl\.gz breaks off or is corrupt"):
        source_of(path)


def test_megabytes_of_blank_lines_before_the_first_object(tmp_path):
    path = written(tmp_path, "t.jsonl", "\n" * (3 << 20) + lines({"a": 1}))
    assert table_of(shards_of(path)).to_pylist() == [{"a": 1}]


def test_a_piece_of_many_columns_has_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl_file, "CELLS", 100)
    path = written(tmp_path, "t.jsonl", lines(*({f"c{i}": 1 for i in range(20)} for _ in range(12))))
    assert [len(piece.rows) for piece in source_of(path).pieces()] == [5, 5, 2]


def test_an_integer_beyond_64_bits_in_an_integer_column_costs_its_row_only(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl_columns, "SAMPLE_BYTES", 10)
    path = written(tmp_path, "t.jsonl", lines({"a": 1}, {"a": -(2**63)}, {"a": 2**63}, {"a": 4}))
    (shard,) = shards_of(path)
    assert shard.table.column("a").to_pylist() == [1, -(2**63), None, 4]
    assert list(shard.errors) == [2]


def test_an_archive_that_breaks_off_at_the_end_of_a_line_is_a_reject(tmp_path):
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(lines(*({"a": i} for i in range(100))).encode()) + packer.flush(zlib.Z_FULL_FLUSH)
    path = written(tmp_path, "t.jsonl.gz", start)  # all of these lines, and then nothing
    shards = shards_of(path)
    assert table_of(shards).column("a").to_pylist() == list(range(100))
    (reject,) = rejects_of(shards)
    assert reject.whole_file
    assert (reject.line, reject.raw) == (101, b"")
    assert "breaks off or is corrupt" in reject.reason
    assert "rows before this place are kept" in reject.reason


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_wide_encoding_without_a_mark_is_told_what_to_write(tmp_path, encoding):
    path = written(tmp_path, "t.jsonl", lines({"text": "Größe"}).encode(encoding))
    with pytest.raises(
        InputError,
        match=f"looks like {encoding[:6].upper()} without a byte order mark; say `input.encoding: {encoding}`",
    ):
        source_of(path)
    assert rows_of(path, encoding=encoding) == [{"text": "Größe"}]


def test_a_mark_amid_files_that_were_put_together_is_said(tmp_path):
    one = b"\xef\xbb\xbf" + lines({"id": 1}).encode()
    shards = shards_of(written(tmp_path, "t.jsonl", one + one))
    assert table_of(shards).to_pylist() == [{"id": 1}]
    (reject,) = rejects_of(shards)
    assert reject.line == 2 and "starts with a byte order mark" in reject.reason


def test_of_a_large_row_the_reader_holds_nothing_beside_its_columns(tmp_path):
    size = 24 << 20
    path = written(tmp_path, "t.jsonl", lines(*({"n": n, "t": "x" * size} for n in range(4))))
    source, numbers, python = source_of(path, rows=1), [], 0
    tracemalloc.start()
    for shard in source.shards():
        numbers += shard.table.column("n").to_pylist()
        python = max(python, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert numbers == [0, 1, 2, 3]
    assert python < size  # what was read of the next row: not this one's line, its pieces and its object


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.jsonl.gz", b"plain", "holds no gzip data, as its name says"),
        ("b.jsonl.gz", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "is compressed twice"),
        ("b.jsonl", b"PK\x03\x04" + bytes(100), "is a zip archive"),
        ("b.jsonl", lines({"a": 3}).encode("utf-16-le"), "looks like UTF-16"),
        ("b.jsonl", b"\n \n", "is empty"),
    ],
)
def test_a_file_that_is_not_among_those_that_decide_columns_may_be_unreadable(
    tmp_path, monkeypatch, name, content, reason
):
    monkeypatch.setattr(jsonl_columns, "SAMPLE_BYTES", 10)
    for path in ("a.jsonl", "c.jsonl"):
        written(tmp_path, path, lines({"a": 1}, {"a": 2}))
    path = written(tmp_path, name, content)
    shards = shards_of(tmp_path)
    assert table_of(shards).column("a").to_pylist() == [1, 2, 1, 2]
    [reject] = rejects_of(shards)
    assert reject.whole_file and reject.source == str(path) and reject.reason.startswith(f"the file {reason}")
