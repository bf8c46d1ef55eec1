"""Hypothesis strategies for bytes that look like CSV, JSON Lines, Parquet and job files, and nearly are."""

import bz2
import gzip
import io
import json
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

TOKENS = [
    *(b"a", b"b", b"x y", b"0", b"-1", b"1e9", b",", b",", b";", b"\t", b"|", b'"', b'"', b'""', b"\n", b"\n", b"\n"),
    *(b"\r\n", b"\r", b" ", b"\x00", b"\x1b[31m", b"\xff", b"\xc3", b"\xed\xa0\x80", "é漢🙂\u202e".encode()),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"=cmd|' /C calc'!A0", b"@SUM(1)", b"../"),
    *(b"<mask>", b"</s>", b"null", b"#", b"'", b"\\", b"\\n"),
]
JSON_TOKENS = [
    *(b"{", b"}", b"[", b"]", b":", b",", b'"', b'"a"', b'"b"', b"1", b"-0", b"1e999", b"NaN", b"Infinity", b"true"),
    *(b"null", b"\n", b"\n", b"\r", b" ", b"\\ud800", b"\\u0000", b"9" * 30, b'{"a": 1}\n', b'{"b": "x"}\n', b"\xff"),
    *(b'{"a": {"c": [1, null]}}\n', b'{"a": 1.5, "a": 2}\n', b'{"a": true, "d": ""}\n', b"{}\n", b"[" * 60, b"\x00"),
]


def _joined(tokens: list[bytes], size: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(tokens), max_size=size).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """`whole` with some bytes changed, left out, doubled, or cut off."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 4))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        how = draw(st.integers(0, 4))
        if how == 0:
            content[place] = draw(st.integers(0, 255))
        elif how == 1:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how == 2:
            del content[place : place + draw(st.integers(1, 16))]
        elif how == 3:
            content[place:place] = content[place : place + draw(st.integers(1, 16))]
        else:
            del content[place:]
    return bytes(content)


def _packed(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return damaged(st.one_of(content.map(gzip.compress), content.map(bz2.compress)))


CSV_TEXT = st.one_of(
    _joined(TOKENS, 40),
    _joined(TOKENS, 40).map(lambda text: b"a,b\n" + text),
    st.lists(st.tuples(_joined(TOKENS[:16], 4), _joined(TOKENS[:16], 4)), max_size=8).map(
        lambda rows: b"a,b\n" + b"".join(one + b"," + other + b"\n" for one, other in rows)
    ),
    st.binary(max_size=80),
)
CSV = st.one_of(CSV_TEXT, CSV_TEXT, CSV_TEXT, damaged(CSV_TEXT), _packed(CSV_TEXT))
ENCODINGS = st.sampled_from(
    [None, None, None, "utf-8", "cp1252", "utf-16", "utf-16-le", "shift_jis", "utf-32", "utf-7"]
)

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c", ""]), _VALUES, max_size=4)
JSONL_TEXT = st.one_of(
    _joined(JSON_TOKENS, 30),
    st.lists(_OBJECTS.map(lambda value: json.dumps(value).encode()), max_size=6).map(b"\n".join),
    st.binary(max_size=80),
)
JSONL = st.one_of(JSONL_TEXT, JSONL_TEXT, damaged(JSONL_TEXT), _packed(JSONL_TEXT))


@cache
def parquet_files() -> list[bytes]:
    """Small whole files of several types, codecs, encodings and page versions."""
    rows = 50
    columns = {
        "text": pa.array([None if n % 7 == 0 else f"word {n % 5}" for n in range(rows)]),
        "n": pa.array(range(rows), pa.int64()),
        "f": pa.array([n / 3 for n in range(rows)], pa.float32()),
        "flag": pa.array([n % 2 == 0 for n in range(rows)]),
        "list": pa.array([[n] * (n % 3) for n in range(rows)], pa.list_(pa.int32())),
        "struct": pa.array([{"a": n, "b": str(n)} for n in range(rows)]),
        "when": pa.array(range(rows), pa.timestamp("us", "UTC")),
        "binary": pa.array([bytes([n]) for n in range(rows)]),
        "decimal": pa.array(range(rows), pa.decimal128(10, 2)),
    }
    table = pa.table(columns)
    files = []
    for options in (
        {"compression": "none", "use_dictionary": False},
        {"compression": "snappy"},
        {"compression": "zstd", "data_page_version": "2.0", "row_group_size": 20},
        {"compression": "gzip", "write_page_checksum": True, "row_group_size": 13},
        {"compression": "none", "column_encoding": {"n": "DELTA_BINARY_PACKED"}, "use_dictionary": ["text"]},
        {"compression": "lz4", "write_page_index": True, "store_schema": False},
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        files.append(sink.getvalue())
    sink = io.BytesIO()
    pq.write_table(table.slice(0, 0), sink)
    return [*files, sink.getvalue()]


@st.composite
def parquet(draw: st.DrawFn) -> bytes:
    """A whole file, damaged in its pages, in its footer (where row counts, sizes and offsets stand), or anywhere."""
    whole = bytearray(draw(st.sampled_from(parquet_files())))
    footer = int.from_bytes(whole[-8:-4], "little")
    start = draw(st.sampled_from([0, len(whole) - 8 - footer, len(whole) - 8]))
    for _ in range(draw(st.integers(1, 6))):
        if not whole:
            break
        place = draw(st.integers(min(start, len(whole) - 1), len(whole) - 1))
        how = draw(st.integers(0, 3))
        if how == 0:
            whole[place] = draw(st.integers(0, 255))
        elif how == 1:
            whole[place] ^= 1 << draw(st.integers(0, 7))
        elif how == 2:  # a varint made as long as it can be: lengths and counts beyond all bounds
            whole[place : place + 4] = b"\xff\xff\xff\x7f"
        else:
            del whole[place : place + draw(st.integers(1, 4))]
    return bytes(whole)


JOB = {
    "name": "nightly",
    "input": {"path": "in/*.csv", "id": ["a", "b"], "types": {"n": "int64"}, "delimiter": ",", "encoding": "utf-8"},
    "tasks": {
        "mask": {"type": "fill-mask", "model": "securebert", "text": "{a} <mask>", "top_k": 10, "targets": ["x"]},
        "vec": {"type": "embed", "model": "securebert", "text": "a", "pooling": "mean", "normalize": True},
        "answer": {
            "type": "chat",
            "model": "blenderbot",
            "text": "q",
            "prompt": "{text}",
            "conversation": {"id": "t", "order": "n"},
            "generation": {"num_beams": 10, "temperature": 0.5},
        },
    },
    "output": {"path": "out", "partition_by": ["d"], "mode": "incremental"},
    "max_rejects": "1%",
}
_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.lists(st.text(max_size=3) | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4) | st.integers() | st.none(), st.text(max_size=3), max_size=2),
    st.sampled_from(
        ["%", "-1%", "1e400%", "nan%", "inf", "../..", "~", "{text", "{}", "cuda:99999999999", "∞", "\x00"]
    ),
)


@st.composite
def job_file(draw: st.DrawFn) -> bytes:
    """A good job with odd values, keys missing or new, as YAML whose bytes may be damaged."""
    values = json.loads(json.dumps(JOB))
    for _ in range(draw(st.integers(0, 3))):
        place = values
        while True:
            key = draw(st.sampled_from(sorted(place, key=repr)))  # a drawn key may be a number or null
            inner = place[key]
            if not isinstance(inner, dict) or not inner or draw(st.booleans()):
                break
            place = inner
        how = draw(st.integers(0, 3))
        if how == 0:
            del place[key]
        elif how == 1:
            place[draw(st.text(max_size=6))] = draw(_ODD)
        else:
            place[key] = draw(_ODD)
        if not place:
            break
    text = yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
    return draw(damaged(st.just(text))) if draw(st.booleans()) else text


YAML_TOKENS = [
    *(
        b"a",
        b": ",
        b":",
        b"- ",
        b"\n",
        b"\n  ",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!python/object:os ",
    ),
    *(b"!!binary ", b"|\n", b">\n", b"'", b'"', b"#", b"? ", b"---\n", b"...\n", b"%YAML 9.9\n", b"\t", b"2024-99-99"),
    *(
        b"0x_",
        b"1_0",
        b".inf",
        b".nan",
        b"0o9",
        b"1:99:99",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"name",
        b"input",
        b"tasks",
    ),
]
JOB_FILES = st.one_of(job_file(), job_file(), _joined(YAML_TOKENS, 25), st.binary(max_size=60))
