import bz2
import csv
import gzip
import io
import time
import tracemalloc

import pyarrow as pa
import pytest
from helpers import rejects_of, rows_of, shards_of, source_of, table_of, written
from hypothesis import given, settings
from hypothesis import strategies as st

from secbatch.errors import InputError, JobError
from secbatch.sources import csv_cursor, csv_file, streams
from secbatch.sources.csv_blocks import scan
from secbatch.sources.csv_records import Dialect, parse_record

WORDS = st.text(st.sampled_from(list('ab,;|\t"\n\r 0é😀\0')), max_size=6)


@st.composite
def tables(draw):
    width = draw(st.integers(1, 4))
    cell = WORDS.filter(bool) if width == 1 else WORDS  # a blank line in a one-column file is no row
    return width, draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=8))


@settings(max_examples=300, deadline=None)
@given(tables(), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_reads_what_the_csv_module_writes(tmp_path_factory, drawn, delimiter, line_end, quote_all, named):
    width, rows = drawn
    names = [f"c{i}" for i in range(width)]
    text = io.StringIO(newline="")
    # The module leaves a lone CR or LF unquoted that is not its own line end; quoting all is what keeps it apart.
    odd = any(c in cell for row in rows for cell in row for c in "\r\n")
    quoting = csv.QUOTE_ALL if quote_all or odd or width == 1 else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([names, *rows])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.getvalue().encode("utf-8"))
    spec = {"delimiter": delimiter} if named or width == 1 else {}
    shards = shards_of(path, **spec)
    assert rejects_of(shards) == []
    read = [list(row.values()) for row in table_of(shards).to_pylist()] if shards else []
    assert read == rows
    assert [n for s in shards for n in s.row.to_pylist()] == list(range(1, len(rows) + 1))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120) | st.text(st.sampled_from(list('a,"\n\r x')), max_size=60), st.integers(1, 40))
def test_fast_and_careful_paths_agree(tmp_path_factory, content, window):
    content = content if isinstance(content, bytes) else content.encode()
    path = written(tmp_path_factory.mktemp("csv"), "t.csv", b"a,b\n" + content)

    def read(block):
        source = source_of(path, delimiter=",")
        source._contents.readers[0]._block = block
        rows, rejects = [], []
        for shard in source.shards():
            rows += zip(shard.row.to_pylist(), map(str, shard.table.to_pylist()), strict=True)
            rejects += shard.rejects
        return rows, rejects

    careful_only = pytest.MonkeyPatch()
    with careful_only.context() as patch:
        patch.setattr(csv_file, "scan", lambda *_: csv_file_block_nothing())
        slow = read(1 << 20)
    assert read(1 << 20) == slow
    assert read(window) == slow


def csv_file_block_nothing():
    from secbatch.sources.csv_blocks import Block

    return Block([], 0, 0, False)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from(list('a,"\n\r')), max_size=40))
def test_every_byte_is_in_a_row_or_a_reject(tmp_path_factory, content):
    """Rejects hold their text whole; with the accepted rows they make up the file."""
    raw = content.encode()
    path = written(tmp_path_factory.mktemp("csv"), "t.csv", b"a,b\n" + raw)
    shards = shards_of(path, delimiter=",")
    covered = bytearray(len(raw))
    for reject in rejects_of(shards):
        start = reject.byte_offset - 4
        assert raw[start : start + len(reject.raw)] == reject.raw
        assert (b"a,b\n" + raw)[: reject.byte_offset].count(b"\n") == reject.line - 1
        for i in range(start, start + len(reject.raw)):
            assert not covered[i]
            covered[i] = 1
    left = bytes(b for b, seen in zip(raw, covered, strict=True) if not seen)
    rows = table_of(shards).num_rows if shards else 0
    assert rows == 0 or left.count(b",") >= rows
    if not rows:
        assert left.strip(b"\r\n") == b""


def test_rfc_4180(tmp_path):
    path = written(
        tmp_path, "t.csv", b'\xef\xbb\xbfid,text\r\n1,"a, b\r\nc ""d"""\r\n2,\r\n3,""\r\n\r\n4, spaced \r\n007,last'
    )
    assert rows_of(path) == [
        {"id": "1", "text": 'a, b\r\nc "d"'},
        {"id": "2", "text": ""},
        {"id": "3", "text": ""},
        {"id": "4", "text": " spaced "},
        {"id": "007", "text": "last"},
    ]


def test_delimiter_is_found_and_said_aloud(tmp_path):
    for delimiter, name in [(";", "';'"), ("\t", "tab"), ("|", "'|'"), (",", "','")]:
        path = written(tmp_path, "t.csv", f"id{delimiter}text\n1{delimiter}a\n")
        source = source_of(path)
        assert source.notices == (f"delimiter {name} found in the header of {path}",)
        assert source.schema.names == ["id", "text"]
    path = written(tmp_path, "t.csv", '"a;b;c",d\nx,y\n')
    assert source_of(path).schema.names == ["a;b;c", "d"]
    assert source_of(path, delimiter=",").notices == ()


@pytest.mark.parametrize(
    ("encoding", "spec"),
    [
        ("utf-16", {}),
        ("utf-8-sig", {}),
        ("utf-32", {}),
        ("cp1252", {"encoding": "cp1252"}),
        ("utf-16-le", {"encoding": "utf-16-le"}),
        ("latin-1", {"encoding": "latin1"}),
    ],
)
def test_encodings(tmp_path, encoding, spec):
    text = 'id,text\r\n1,"café, naïve"\r\n2,Größe\r\n'
    path = written(tmp_path, "t.csv", text.encode(encoding))
    assert [row["text"] for row in rows_of(path, **spec)] == ["café, naïve", "Größe"]


def test_the_first_field_is_quoted_and_the_last_line_has_no_end(tmp_path):
    path = written(tmp_path, "t.csv", 'a,b\n"x y",1\n2,3')
    assert rows_of(path) == [{"a": "x y", "b": "1"}, {"a": "2", "b": "3"}]


def test_a_row_of_blanks_is_one_where_there_is_one_column(tmp_path):
    lines = ["a", "x", '"never"closed', "  ", "y"]
    shards = shards_of(written(tmp_path, "t.csv", "\n".join([*lines, ""])), delimiter=",")
    assert table_of(shards).column("a").to_pylist() == ["x", "  ", "y"]
    assert [reject.raw for reject in rejects_of(shards)] == [b'"never"closed\n']


def test_half_a_character_at_the_end_is_no_text(tmp_path):
    path = written(tmp_path, "t.csv", "a,b\n1,x\n2,y".encode("utf-16-le") + b"z")
    shards = shards_of(path, encoding="utf-16-le")
    assert table_of(shards).to_pylist() == [{"a": "1", "b": "x"}]
    assert [reject.raw for reject in rejects_of(shards)] == [b"2,yz"]


def test_unknown_encoding_and_type_are_job_errors(tmp_path):
    path = written(tmp_path, "t.csv", "id,text\n1,a\n")
    with pytest.raises(JobError, match=r"unknown encoding 'cp1253x'.*did you mean 'cp125"):
        source_of(path, encoding="cp1253x")
    with pytest.raises(JobError, match="unknown encoding 'base64'"):
        source_of(path, encoding="base64")
    with pytest.raises(
        JobError, match=r"'id' has the unknown type 'int46'.*did you mean 'int64'.*known are string, bool"
    ):
        source_of(path, types={"id": "int46"})
    with pytest.raises(InputError, match=r"input.types: the input has no column 'tekst'.*did you mean 'text'"):
        source_of(path, types={"tekst": "int64"})


def test_undecodable_bytes_in_a_named_encoding_reject_the_row(tmp_path):
    path = written(tmp_path, "t.csv", "id,text\n1,é\n2,?\n3,z\n".encode("cp1252").replace(b"?", b"\x81"))
    shards = shards_of(path, encoding="cp1252")
    assert table_of(shards).column("text").to_pylist() == ["é", "z"]
    (reject,) = rejects_of(shards)
    assert reject.line == 3
    assert reject.byte_offset is None
    assert "column 'text' is not valid cp1252 (byte 0x81); name the file's encoding" in reject.reason
    assert reject.raw == b"2,\x81\n"
    with pytest.raises(InputError, match=r"header that is not valid cp1252 \(byte 0x8d\)"):
        source_of(written(tmp_path, "h.csv", b"id,te\x8dxt\n1,a\n"), encoding="cp1252")


def test_half_a_character_of_utf16_rejects_its_row_alone(tmp_path):
    half = b"\x2c\xd8"  # its first byte is a comma by itself
    path = written(tmp_path, "t.csv", "id,text\n1,é\n2,?\n3,z\n".encode("utf-16").replace(b"?\0", half))
    shards = shards_of(path)
    assert table_of(shards).column("text").to_pylist() == ["é", "z"]
    (reject,) = rejects_of(shards)
    assert "column 'text' is not valid utf-16 (byte 0x2c)" in reject.reason
    assert reject.raw == b"2," + half + b"\n"


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst"])
def test_compressed(tmp_path, ending):
    text = b"id,text\n" + b"".join(b"%d,row %d\n" % (i, i) for i in range(5000))
    pack = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    }[ending]
    path = written(tmp_path, f"t.csv.{ending}", pack(text[:1000]) + pack(text[1000:]))  # two members, one file
    source = source_of(path)
    rows = table_of(list(source.shards()))
    assert rows.num_rows == 5000
    assert rows.column("text")[4999].as_py() == "row 4999"
    assert source.bytes_read == source.bytes_total == path.stat().st_size


@pytest.mark.parametrize(("ending", "name"), [("gz", "gzip"), ("bz2", "bz2"), ("zst", "zstd")])
@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_a_file_that_is_not_compressed_as_its_name_says(tmp_path, ending, name, format_):
    path = written(tmp_path, f"t.{format_}.{ending}", "id,text\n1,a\n" if format_ == "csv" else '{"id": 1}\n')
    with pytest.raises(InputError, match=f"holds no {name} data, as its name says; give it the ending of what it is"):
        source_of(path)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_truncated_compressed_file_keeps_the_rows_before(tmp_path, ending):
    lines = [b"%d,row %d\n" % (i, i * 7919 % 10007) for i in range(50000)]
    text = b"id,text\n" + b"".join(lines)
    whole = gzip.compress(text) if ending == "gz" else pa.compress(text, codec="zstd", asbytes=True)
    path = written(tmp_path, f"t.csv.{ending}", whole[: len(whole) * 2 // 3])
    shards = shards_of(path)
    rows = table_of(shards)
    assert 1000 < rows.num_rows < 50000
    assert rows.column("id").to_pylist() == [str(i) for i in range(rows.num_rows)]  # no half row
    (reject,) = rejects_of(shards)
    assert reject.whole_file
    assert "breaks off or is corrupt" in reject.reason
    assert lines[rows.num_rows].startswith(reject.raw)


@pytest.mark.parametrize("rows", [5, 3000, 100_000])
@pytest.mark.parametrize("ending", ["gz", "bz2"])
def test_an_archive_with_a_wrong_checksum_keeps_its_rows(tmp_path, ending, rows):
    text = b"id,text\n" + b"".join(b"%d,row %d\n" % (i, i * 7919 % 10007) for i in range(rows))
    packed = bytearray(gzip.compress(text) if ending == "gz" else bz2.compress(text))
    packed[-6 if ending == "gz" else -3] ^= 0xFF
    shards = shards_of(written(tmp_path, f"t.csv.{ending}", bytes(packed)))
    assert table_of(shards).column("id").to_pylist() == [str(i) for i in range(rows)]
    (reject,) = rejects_of(shards)
    assert reject.whole_file and "breaks off or is corrupt" in reject.reason


def test_an_archive_whose_second_part_has_a_wrong_checksum_keeps_its_rows(tmp_path):
    rows = [b"%d,row %d\n" % (i, i * 7919 % 10007) for i in range(400)]
    second = bytearray(gzip.compress(b"".join(rows[200:])))
    second[-6] ^= 0xFF
    path = written(tmp_path, "t.csv.gz", gzip.compress(b"id,text\n" + b"".join(rows[:200])) + bytes(second))
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == [str(i) for i in range(400)]
    assert [reject.whole_file for reject in rejects_of(shards)] == [True]


def test_rows_behind_a_damaged_one_of_an_archive_that_breaks_off_are_kept(tmp_path):
    text = "id,text\n1,x\n2,one,too many\n" + "".join(f"{n},good\n" for n in range(3, 50))
    shards = shards_of(written(tmp_path, "t.csv.gz", gzip.compress(text.encode())[:-4]))
    assert table_of(shards).column("id").to_pylist() == ["1", *(str(n) for n in range(3, 50))]
    assert [reject.raw for reject in rejects_of(shards)] == [b"2,one,too many\n", b""]


def test_many_empty_streams_of_bzip2(tmp_path):
    """As a log has that is appended to each night: Arrow fails at each of them."""
    night = "".join(f"{row},{row * 7919 % 10007 * 7907 % 10009}\n" for row in range(9000)).encode()
    packed = bz2.compress(b"id,text\n") + 9 * (bz2.compress(night) + bz2.compress(b""))
    shards = shards_of(written(tmp_path, "t.csv.bz2", packed))
    assert table_of(shards).num_rows == 9 * 9000 and rejects_of(shards) == []


def test_an_empty_stream_between_others_of_bzip2_is_no_damage(tmp_path, monkeypatch):
    """Arrow stumbles over it; what follows is read at the pace of any archive."""
    text = b"".join(b"%d,row %d\n" % (i, i * 7919 % 10007) for i in range(100_000))
    packed = bz2.compress(b"id,text\n") + 2 * bz2.compress(b"") + bz2.compress(text)
    reads = []
    read = streams._Packed.read
    monkeypatch.setattr(streams._Packed, "read", lambda self, size=-1: reads.append(size) or read(self, size))
    shards = shards_of(written(tmp_path, "t.csv.bz2", packed))
    assert table_of(shards).column("id").to_pylist() == [str(i) for i in range(100_000)]
    assert rejects_of(shards) == []
    assert len(reads) < 2.5 * streams.UNPACKED_AT_ONCE < len(packed)  # of the header's file, and of the rows'


@pytest.mark.parametrize("step", [1, 5, 14, 50])
def test_an_empty_stream_of_bzip2_that_two_reads_share(tmp_path, monkeypatch, step):
    monkeypatch.setattr(streams, "UNPACKED_AT_ONCE", step)
    nights = [bz2.compress(b"id,text\n"), bz2.compress(b""), bz2.compress(b"1,a\n"), bz2.compress(b"")]
    shards = shards_of(written(tmp_path, "t.csv.bz2", b"".join([*nights, bz2.compress(b"2,b\n")])))
    assert table_of(shards).column("id").to_pylist() == ["1", "2"] and rejects_of(shards) == []


def test_an_archive_with_a_window_that_is_not_unpacked_is_said_to_be_that(tmp_path):
    text = b"id,text\n1,a\n"
    block = (len(text) << 3 | 1).to_bytes(3, "little") + text
    path = written(tmp_path, "t.csv.zst", b"\x28\xb5\x2f\xfd\x00" + bytes([27 - 10 << 3]) + block)
    assert table_of(shards_of(path)).to_pylist() == [{"id": "1", "text": "a"}]
    path = written(tmp_path, "t.csv.zst", b"\x28\xb5\x2f\xfd\x00" + bytes([31 - 10 << 3]) + block)
    said = r"t\.csv\.zst takes more than 128 MiB to unpack \(zstd --long\); compress it again with --long=27 or less$"
    with pytest.raises(InputError, match=said):
        source_of(path)


def test_a_file_that_starts_with_megabytes_of_blank_lines_is_not_called_empty(tmp_path):
    path = written(tmp_path, "t.csv", b"\n" * (3 << 20) + b"id,text\n1,a\n")
    with pytest.raises(InputError, match=r"t\.csv starts with more than 1 MiB of blank lines; remove them"):
        source_of(path)


def test_rows_of_the_wrong_width_are_rejected_one_by_one(tmp_path):
    path = written(tmp_path, "t.csv", "a,b,c\n1,2,3\n1,2\n1,2,3,4\n5,6,7\n")
    shards = shards_of(path)
    assert table_of(shards).column("a").to_pylist() == ["1", "5"]
    assert shards[0].row.to_pylist() == [1, 4]  # a rejected record has its number, too
    few, many = rejects_of(shards)
    assert (few.line, few.byte_offset, few.raw) == (3, 12, b"1,2\n")
    assert few.reason.startswith("2 fields where the header has 3; quote a field that holds ','")
    assert (many.line, many.byte_offset, many.raw) == (4, 16, b"1,2,3,4\n")


GOOD = "".join(f'{i},good {i},"q {i}"\n' for i in range(10, 13))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('2,"open,x\n', "goes on after its closing quote"),
        ('2,"open,x\n3,"second open,y\n', "goes on after its closing quote"),
        ('2,"said "so" to me",x\n', "goes on after its closing quote"),
        ('2,"line one\nline "two" of it\nline three",z\n', "goes on after its closing quote"),
        ('2,"line one, with commas\nline two, and\nmore",x,one too many\n', "4 fields where the header has 3"),
    ],
)
def test_a_stray_quote_costs_no_good_row(tmp_path, bad, reason):
    path = written(tmp_path, "t.csv", "id,text,note\n1,a,b\n" + bad + GOOD)
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["1", "10", "11", "12"]
    rejects = rejects_of(shards)
    assert "".join(reject.raw.decode() for reject in rejects) == bad
    assert rejects[0].line == 3
    assert reason in rejects[0].reason


def test_a_quote_that_never_closes(tmp_path):
    path = written(tmp_path, "t.csv", 'id,text\n1,a\n2,"open\n' + "".join(f"{i},good\n" for i in range(3, 2000)))
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["1", *map(str, range(3, 2000))]
    (reject,) = rejects_of(shards)
    assert reject.raw == b'2,"open\n'
    assert "never closes" in reject.reason


def test_rows_between_two_stray_quotes_are_not_lost(tmp_path):
    path = written(tmp_path, "t.csv", 'a,b,c\n1,x,"open\n2,good,y\n3,good,z\n4,stray",w\n5,ok,v\n')
    ids = table_of(shards_of(path)).column("a").to_pylist()
    assert ids == ["2", "3", "4", "5"]


def test_a_quoted_field_may_hold_whole_rows(tmp_path):
    inner = "2,good,y\n3,good,z\n" * 200
    path = written(tmp_path, "t.csv", f'a,b,c\n1,"{inner}",x\n9,ok,v\n')
    shards = shards_of(path)
    assert rejects_of(shards) == []
    assert table_of(shards).column("b").to_pylist() == [inner, "ok"]


def test_quotes_inside_unquoted_fields_are_characters(tmp_path):
    path = written(tmp_path, "t.csv", 'id,text\n1,a 5" disk\n2,he said "so"\n3,x""y\n')
    assert [row["text"] for row in rows_of(path)] == ['a 5" disk', 'he said "so"', 'x""y']


def test_invalid_utf8_rejects_its_row_only(tmp_path):
    path = written(tmp_path, "t.csv", b"id,text\n1,good\n2,caf\xe9\n3,caf\xc3\xa9\n")
    shards = shards_of(path)
    assert table_of(shards).column("text").to_pylist() == ["good", "café"]
    (reject,) = rejects_of(shards)
    assert reject.raw == b"2,caf\xe9\n"
    assert "column 'text' is not valid UTF-8 (byte 0xe9)" in reject.reason
    assert "input.encoding: cp1252" in reject.reason


def test_nul_bytes_survive(tmp_path):
    path = written(tmp_path, "t.csv", b'id,text\n1,a\0b\n2,"\0"\n')
    assert [row["text"] for row in rows_of(path)] == ["a\0b", "\0"]


def test_types(tmp_path):
    path = written(
        tmp_path,
        "t.csv",
        "n,f,b,d,t,s\n1, 1.5 ,true,2024-02-29,2024-01-01T10:00:00,007\n,,,,,\n9999999999,1e3,FALSE,2024-01-01,"
        "2024-01-01 10:00:00.25,x\n",
    )
    types = {"n": "int64", "f": "float64", "b": "bool", "d": "date", "t": "timestamp", "s": "string"}
    table = table_of(shards_of(path, types=types))
    assert [str(f.type) for f in table.schema] == [
        "int64",
        "double",
        "bool",
        "date32[day]",
        "timestamp[us]",
        "string",
    ]
    assert table.column("n").to_pylist() == [1, None, 9999999999]
    assert table.column("f").to_pylist() == [1.5, None, 1000.0]
    assert table.column("s").to_pylist() == ["007", "", "x"]
    assert table.column("d")[1].as_py() is None


def test_a_value_of_the_wrong_type_keeps_its_row(tmp_path):
    path = written(tmp_path, "t.csv", "id,n,m\n1,5,6\n2,abc,\n3,7,x y\n4,8,9\n")
    (shard,) = shards_of(path, types={"n": "int64", "m": "int32"})
    assert shard.table.column("n").to_pylist() == [5, None, 7, 8]
    assert set(shard.errors) == {1, 2}
    assert shard.errors[1].startswith(f"{path}, row 2, column 'n': 'abc' is not of type int64;")
    assert shard.errors[2].startswith(f"{path}, row 3, column 'm': 'x y' is not of type int32;")


def test_a_hexadecimal_value_is_no_negative_number(tmp_path):
    path = written(tmp_path, "t.csv", "b,n\n0x7F,0x1f\n0xFF,-1\n-1, 0xFFFFFFFFFFFFFFFF\n0x1FF,x\n")
    (shard,) = shards_of(path, types={"b": "int8", "n": "int64"})
    assert shard.table.to_pydict() == {"b": [127, None, -1, None], "n": [31, -1, None, None]}
    assert list(shard.errors) == [1, 2, 3]
    assert shard.errors[1].startswith(f"{path}, row 2, column 'b': '0xFF' is not of type int8;")
    assert "column 'n': ' 0xFFFFFFFFFFFFFFFF' is not of type int64" in shard.errors[2]


def test_type_errors_after_a_slice_keep_their_row(tmp_path):
    path = written(tmp_path, "t.csv", "n\n" + "".join("x\n" if i == 25 else f"{i}\n" for i in range(40)))
    shards = shards_of(path, rows=lambda index: 10, types={"n": "int64"})
    assert [set(shard.errors) for shard in shards] == [set(), set(), {5}, set()]
    assert shards[2].row.to_pylist()[5] == 26


def test_header_faults(tmp_path):
    path = written(tmp_path, "t.csv", "id,text,id\n1,a,2\n")
    with pytest.raises(InputError, match="the header names 'id' more than once"):
        source_of(path)
    with pytest.raises(InputError, match=r"e\.csv is empty"):
        source_of(written(tmp_path, "e.csv", ""))
    with pytest.raises(InputError, match=r"b\.csv is empty"):
        source_of(written(tmp_path, "b.csv", "\n\n"))
    with pytest.raises(
        InputError, match=r"looks like UTF-16 without a byte order mark; say `input.encoding: utf-16-le`"
    ):
        source_of(written(tmp_path, "u.csv", "id,text\n1,a\n".encode("utf-16-le")))
    with pytest.raises(InputError, match=r"has no byte order mark, as utf-16 needs; name utf-16-le or utf-16-be in"):
        source_of(written(tmp_path, "v.csv", "id,text\n1,a\n".encode("utf-16-le")), encoding="utf-16")
    with pytest.raises(InputError, match=r"header that is not valid UTF-8.*cp1252"):
        source_of(written(tmp_path, "c.csv", b"id,caf\xe9\n1,a\n"))
    with pytest.raises(InputError, match="is a zip archive or an Excel workbook"):
        source_of(written(tmp_path, "x.csv", b"PK\x03\x04aaaa"))


def test_header_only(tmp_path):
    path = written(tmp_path, "t.csv", "id,text\n")
    source = source_of(path)
    assert list(source.shards()) == []
    assert any("holds the header only" in notice for notice in source.notices)
    assert source.schema.names == ["id", "text"]


def test_nameless_columns_get_names(tmp_path):
    path = written(tmp_path, "t.csv", ",text\n0,a\n")
    source = source_of(path)
    assert source.schema.names == ["column_1", "text"]
    assert any("has no name" in notice for notice in source.notices)


def test_large_field_in_linear_time(tmp_path):
    big = 'line with "" and , inside\n' * 1_000_000
    path = written(tmp_path, "t.csv", f'id,text\n1,"{big}"\n2,small\n')
    start = time.perf_counter()
    table = table_of(shards_of(path))
    assert time.perf_counter() - start < 20
    assert len(table.column("text")[0].as_py()) == len(big) - 1_000_000
    assert table.column("id").to_pylist() == ["1", "2"]


def test_a_record_beyond_the_limit_is_rejected(tmp_path, monkeypatch):
    for module in (csv_cursor, csv_file):
        monkeypatch.setattr(module, "RECORD_LIMIT", 5 << 20)
    big = "x" * (11 << 20)
    path = written(tmp_path, "t.csv", f'id,text\n1,{big}\n2,small\n3,"{big}"\n4,small\n')
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["2", "4"]
    rejects = rejects_of(shards)
    assert {reject.line for reject in rejects} == {2, 4}
    assert all("longer than 5 MiB" in reject.reason for reject in rejects)
    assert all(len(reject.raw) <= 1 << 20 for reject in rejects)


def test_many_stray_quotes_take_linear_time(tmp_path):
    path = written(tmp_path, "t.csv", "id,text\n" + '1,"open\n2,fine\n' * 20_000)
    start = time.perf_counter()
    shards = shards_of(path)
    assert time.perf_counter() - start < 20
    assert table_of(shards).num_rows == 20_000
    assert len(rejects_of(shards)) == 20_000


def test_scan_leaves_doubtful_text_to_the_parser():
    dialect = Dialect(b",", b"\n")
    block = scan(b'1,a\n2,"b"\n3,"c"d\n4,e\n', 2, dialect)
    assert (block.num_rows, block.end, block.clean) == (2, 10, False)
    assert [column.to_pylist() for column in block.columns] == [["1", "2"], ["a", "b"]]
    record = parse_record(b'3,"c"d\n4,e\n', 0, dialect, 1000)
    assert record.fault is not None


def test_lines_of_text_under_one_name(tmp_path):
    path = written(tmp_path, "t.csv", 'sentence\nHello, world; a|b\n"quoted, ""so"""\n5" disk\n')
    source = source_of(path)
    assert "each line is one value of 'sentence'" in source.notices[0]
    assert [row["sentence"] for row in rows_of(path)] == ["Hello, world; a|b", 'quoted, "so"', '5" disk']


def test_a_byte_order_mark_counts_for_more_than_the_named_encoding(tmp_path):
    written(tmp_path, "a.csv", "id,text\n1,é\n".encode("utf-8-sig"))
    written(tmp_path, "b.csv", "id,text\n2,é\n".encode("cp1252"))
    written(tmp_path, "c.csv", "id,text\n3,é\n".encode("utf-16"))
    assert [row["text"] for row in rows_of(tmp_path, encoding="cp1252")] == ["é", "é", "é"]


def test_damaged_rows_side_by_side_are_counted_one_by_one(tmp_path):
    path = written(tmp_path, "t.csv", "id,text,note\n" + '1,"open,x\n' * 50 + "2,good,y\n")
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["2"]
    assert [reject.line for reject in rejects_of(shards)] == list(range(2, 52))
    assert shards[0].row.to_pylist() == [51]


def test_the_byte_ff_in_lines_of_text_is_invalid_utf8(tmp_path):
    path = written(tmp_path, "t.csv", b"sentence\none\ntw\xffo\n\xff\nthree\n")
    shards = shards_of(path)
    assert table_of(shards).column("sentence").to_pylist() == ["one", "three"]
    assert [reject.line for reject in rejects_of(shards)] == [3, 4]
    assert all("is not valid UTF-8 (byte 0xff)" in reject.reason for reject in rejects_of(shards))
    with pytest.raises(InputError, match="header that is not valid UTF-8"):
        source_of(written(tmp_path, "h.csv", b"sent\xffence\none\n"))


def test_the_byte_ff_beside_stray_quotes_in_lines_of_text_is_a_reject(tmp_path):
    """It parts such a line into fields: one ends with a quote, one is quoted and ends where a clean row starts."""
    path = written(tmp_path, "t.csv", b'sentence\none\nx"\xff"y\n"two\nlines"\nthree\n')
    shards = shards_of(path)
    assert table_of(shards).column("sentence").to_pylist() == ["one", "two\nlines", "three"]
    (reject,) = rejects_of(shards)
    assert (reject.line, reject.raw) == (3, b'x"\xff"y\n')


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_quote_inside_a_header_name_is_a_character(tmp_path, delimiter):
    path = written(tmp_path, "t.csv", f'5" disk{delimiter}"a ""b"""{delimiter}c"\n1{delimiter}2{delimiter}3\n')
    assert rows_of(path) == [{'5" disk': "1", 'a "b"': "2", 'c"': "3"}]
    assert rows_of(path, delimiter=delimiter) == [{'5" disk': "1", 'a "b"': "2", 'c"': "3"}]


def test_several_carriage_returns_before_a_line_feed_are_one_line_end(tmp_path):
    path = written(tmp_path, "t.csv", b'a,b\r\r\n1,x\r\r\n2,"q\r\r\ns"\r\r\n\r\r\n3,"z"\r\r\r\n')
    shards = shards_of(path)
    assert rejects_of(shards) == []
    assert [list(row.values()) for row in table_of(shards).to_pylist()] == [["1", "x"], ["2", "q\r\r\ns"], ["3", "z"]]


@pytest.mark.parametrize("last", ["3,cd", '"3","cd"', '"3",cd\r'])
def test_a_file_that_is_cut_between_carriage_return_and_line_feed(tmp_path, last):
    shards = shards_of(written(tmp_path, "t.csv", f"a,b\r\n1,2\r\n{last}\r"))
    assert (table_of(shards).to_pylist(), rejects_of(shards)) == ([{"a": "1", "b": "2"}, {"a": "3", "b": "cd"}], [])


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ('2,"open,x\n', '4,", foo",z\n'),  # else: 2 | open,x\\n4, | ⎵foo" | z
        ('2,b,"open\n', '4,", foo",z\n'),
        ('2,"x"",y\n', '4,", foo",z\n'),
        ('2,"open,x\n', '4,"\nfoo",z\n'),
        ('2,"open,x\n', '4,", foo","two\nlines"\n'),
        ('"2,a,x\n', '4,", foo",z\n'),  # else three fields: 2,a,x\\n4, | ⎵foo" | z
    ],
)
def test_a_row_that_starts_a_field_with_a_delimiter_after_a_stray_quote_is_not_lost(tmp_path, bad, good):
    path = written(tmp_path, "t.csv", "id,text,note\n1,a,b\n" + bad + good + GOOD)
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["1", "4", "10", "11", "12"]
    assert table_of(shards).column("text")[1].as_py() == good.split('"')[1]
    (reject,) = rejects_of(shards)
    assert reject.raw.decode() == bad
    assert "never closes" in reject.reason or "goes on after" in reject.reason


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ('2,"said "so" to me",x\n', '3,a 5" disk",y\n'),  # the row before has closed all its quotes
        ('2,"open,x\n', '3,he said "so",y\n'),  # the quote at the field's end has its other one in the field
        ('2,"line one\nsaid "two""\n', '3,he said "so",y\n'),
    ],
)
def test_a_row_with_a_quote_at_a_fields_end_after_a_damaged_row_is_not_lost(tmp_path, bad, good):
    path = written(tmp_path, "t.csv", "id,text,note\n1,a,b\n" + bad + good + GOOD)
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["1", "3", "10", "11", "12"]
    assert table_of(shards).column("text")[1].as_py() == good.split(",")[1]
    assert "".join(reject.raw.decode() for reject in rejects_of(shards)) == bad


@pytest.mark.parametrize(
    "bad", ['2,"said "so"\nand, more",x\n', '2,"line one\nsaid "so", and, left",x\n', '2,"one\ntwo "so"",x\n']
)
def test_the_tail_of_a_damaged_row_is_no_row(tmp_path, bad):
    path = written(tmp_path, "t.csv", "id,text,note\n1,a,b\n" + bad + GOOD)
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["1", "10", "11", "12"]
    assert "".join(reject.raw.decode() for reject in rejects_of(shards)) == bad


def test_a_long_text_with_quotes_in_a_record_of_the_wrong_width_is_rejected_whole(tmp_path):
    bad = '2,"He said ""so"", then, left\nand ""then"", again, came\nend",x,y\n'
    path = written(tmp_path, "t.csv", "id,text,note\n1,a,b\n" + bad + GOOD)
    shards = shards_of(path)
    assert table_of(shards).column("id").to_pylist() == ["1", "10", "11", "12"]
    assert [reject.raw.decode() for reject in rejects_of(shards)] == [bad]


def test_time_zones(tmp_path):
    path = written(tmp_path, "t.csv", "id,seen\n1,2024-07-01T12:00:00+02:00\n2,\n")
    for zone in ("UTC", "Europe/Berlin", "+02:00"):
        column = table_of(shards_of(path, types={"seen": f"timestamp[s, {zone}]"})).column("seen")
        assert column.type == pa.timestamp("s", zone)
        assert column.cast(pa.int64()).to_pylist() == [1719828000, None]
    with pytest.raises(JobError, match="column 'seen' has the unknown time zone 'Mars/Base'; write one such as UTC"):
        source_of(path, types={"seen": "timestamp[us, Mars/Base]"})


def test_what_cannot_be_read_at_all_does_not_speak_of_rows_kept(tmp_path):
    path = written(tmp_path, "t.csv.gz", gzip.compress(b"id,text\n1,a\n")[:14])
    with pytest.raises(InputError, match=r"t\.csv\.gz breaks off or is corrupt \(gzip: .*\); fetch the file again$"):
        source_of(path)
    old = written(tmp_path, "t.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    with pytest.raises(InputError, match="is an Excel workbook or another Office document; save it as CSV"):
        source_of(old)


def test_a_failure_that_the_library_that_decompresses_has_no_number_for(tmp_path):
    """Empty streams of bzip2 and what is none of its data behind them: Arrow raises a class of its own."""
    empty = bz2.compress(b"")
    path = written(tmp_path, "t.csv.bz2", empty + empty + b"\0")
    with pytest.raises(InputError, match=r"t\.csv\.bz2 breaks off or is corrupt \(bz2: .*\); fetch the file again$"):
        source_of(path)
    path = written(tmp_path, "u.csv.bz2", bz2.compress(b"id,text\n1,a\n") + empty + b"\0")
    shards = shards_of(path)
    assert table_of(shards).to_pylist() == [{"id": "1", "text": "a"}]
    assert [reject.whole_file for reject in rejects_of(shards)] == [True]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_that_tells_excel_the_delimiter_is_no_header(tmp_path, end):
    written(tmp_path, "a.csv", end.join(["sep=;", "id;text", "1;a, b", "2;c", ""]))
    source = source_of(tmp_path / "a.csv")
    assert table_of(list(source.shards())).to_pylist() == [{"id": "1", "text": "a, b"}, {"id": "2", "text": "c"}]
    written(tmp_path, "b.csv", "sep=x;text\n1;a\n")  # a column's name
    assert source_of(tmp_path / "b.csv").schema.names == ["sep=x", "text"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_behind_the_line_that_tells_excel_the_delimiter(tmp_path, end):
    path = written(tmp_path, "t.csv", end.join(["", "sep=;", "", "", "id;text", "1;a", ""]))
    assert table_of(shards_of(path)).to_pylist() == [{"id": "1", "text": "a"}]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"'])
def test_a_long_header_behind_the_line_that_tells_excel_the_delimiter(tmp_path, line):
    names = [f"a_name_of_some_length_{number}" for number in range(5000)]  # 130 KB, more than is looked at first
    path = written(tmp_path, "t.csv", f"{line}\n{';'.join(names)}\n{';'.join('1' * 5000)}\n")
    table = table_of(shards_of(path))
    assert (table.column_names, table.num_rows) == (names, 1)


@pytest.mark.parametrize("first", ["", "q"])
def test_a_quote_that_is_left_over_in_a_row_whose_first_line_is_a_piece_of_one(tmp_path, first):
    path = written(tmp_path, "t.csv", f'a,b\n1,2\n"{first}\nw,",x"\n3,4\n')
    shards = shards_of(path)
    assert [list(row.values()) for row in table_of(shards).to_pylist()] == [
        ["1", "2"],
        [f"{first}\nw,", 'x"'],
        ["3", "4"],
    ]
    assert not rejects_of(shards)


def test_a_quote_that_is_left_over_where_the_first_line_is_a_row_is_another_rows(tmp_path):
    path = written(tmp_path, "t.csv", 'a,b\n1,"never closed\n2,", x"\n3,4\n')
    shards = shards_of(path)
    assert [list(row.values()) for row in table_of(shards).to_pylist()] == [["2", ", x"], ["3", "4"]]
    assert [reject.raw for reject in rejects_of(shards)] == [b'1,"never closed\n']


def test_of_a_large_row_the_reader_holds_nothing_beside_its_columns(tmp_path):
    size = 24 << 20
    path = written(tmp_path, "t.csv", b"n,t\n" + b"".join(b"%d,%s\n" % (n, b"x" * size) for n in range(6)))
    before = pa.total_allocated_bytes()
    numbers, arrow, python = [], 0, 0
    tracemalloc.start()
    for shard in source_of(path, rows=1).shards():
        numbers += shard.table.column("n").to_pylist()
        arrow = max(arrow, pa.total_allocated_bytes() - before)
        python = max(python, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert numbers == list("012345")
    assert arrow < 1.5 * size  # a piece of one row is the shard, and no copy of it
    assert python < 1.5 * size  # what was read of the next row: not this one's text, its record and its fields
