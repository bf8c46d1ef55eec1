"""The fast path of JSON Lines: what it takes is what the careful parser makes of it, and it takes no more."""

import json
import tracemalloc

import pyarrow as pa
import pytest
from helpers import rejects_of, shards_of, table_of, written

from secbatch.sources import jsonl_file
from secbatch.sources.jsonl_block import LONGEST, fits_arrow, scan
from secbatch.sources.jsonl_lines import parse_line

SCHEMA = pa.schema({"t": pa.string(), "i": pa.int64(), "f": pa.float64(), "b": pa.bool_()})
GOOD = b'{"t": "x", "i": 1, "f": 2.5, "b": true}'


def test_clean_lines_are_what_python_makes_of_them() -> None:
    numbers = [
        "0",
        "0.0",
        "1",
        "-1.25e-7",
        "9007199254740991",
        "5e-324",
        "1e-400",
        "0.1000000000000000055511151231257827",
    ]
    texts = ['""', '"\\u0041\\n\\/\\"\\\\"', '"é😀\x7f"', '"\\u0000"', '"}\\n{"', '"2020-01-01T00:00:00Z"', "null"]
    lines = [f'{{"f":{number}}}' for number in numbers] + [f'\t{{ "t" :{text} }}'.strip() for text in texts]
    lines += ["{}", '{"b":false,"i":-9223372036854775808,"t":"x"}\r', '{"\\u0069":7}']
    encoded = [line.encode() for line in lines]
    table = scan(encoded, SCHEMA)
    assert table is not None and table.schema == SCHEMA
    parsed = [parse_line(line) for line in encoded]
    assert table.to_pylist() == [{name: row.get(name) for name in SCHEMA.names} for row in parsed]


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"i":1}{"i":2}', b'{"i":\n3}'],  # as many objects as lines
        [b'{"i":1}{"i":2}', b'{"i":3}\0{"i":4}', b'{"i":5}'],  # likewise, up to where a C string ends
        [b'{"i":1}', b""],
        [b' {"i":1}'],
        [b'{"i":1} '],
        [b'\xef\xbb\xbf{"i":1}'],
        [b'{"t":"\xff"}'],
        [b'{"t":"\\ud800"}'],
        [b'{"t":"\\udc00x"}'],
        [b'{"t":"\x01"}'],
        [b'{"t":"\\x"}'],
        [b'{"t":1}'],
        [b'{"t":[1]}'],
        [b'{"t":"x","t":"y"}'],
        [b'{"u":1}'],
        [b'{"i":1.0}'],
        [b'{"i":9223372036854775808}'],
        [b'{"i":01}'],
        [b'{"f":-0}'],  # an integer to Python, which has one zero
        [b'{"f":9007199254740993}'],
        [b'{"f":1e400}'],
        [b'{"f":NaN}'],
        [b'{"f":"1"}'],
        [b'{"b":1}'],
        [b'{"i":1},'],
        [b'{"i":1}]}'],
        [b"{'i':1}"],
        [b"[1]"],
    ],
    ids=lambda lines: repr(lines[-1])[1:],
)
def test_all_else_is_left_to_the_careful_parser(lines: list[bytes]) -> None:
    assert scan([GOOD, GOOD], SCHEMA).to_pylist() == [json.loads(GOOD)] * 2
    assert scan([GOOD, *lines, GOOD], SCHEMA) is None


def test_long_lines_are_not_copied_for_it() -> None:
    lines = [b'{"t":"' + b"x" * (LONGEST // 2) + b'"}'] * 2
    tracemalloc.start()
    assert scan(lines, SCHEMA) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LONGEST // 2


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.int32(), pa.decimal128(10, 2)], ids=str)
def test_other_types_are_left_to_the_careful_parser(kind: pa.DataType) -> None:
    assert fits_arrow(SCHEMA) and not fits_arrow(SCHEMA.append(pa.field("x", kind))) and not fits_arrow(pa.schema([]))


def test_of_a_clean_file_no_line_becomes_an_object(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jsonl_file, "PIECE_ROWS", 7)
    monkeypatch.setattr(jsonl_file, "parse_line", None)
    path = written(tmp_path, "t.jsonl", "\n\n".join(json.dumps({"n": n, "t": f"t{n}"}) for n in range(50)))
    table = table_of(shards_of(path))
    assert table.to_pylist() == [{"n": n, "t": f"t{n}"} for n in range(50)]


def test_after_lines_that_it_refuses_the_fast_path_is_tried_less_and_less_and_then_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jsonl_file, "PIECE_ROWS", 1)
    tried = []
    monkeypatch.setattr(jsonl_file, "scan", lambda lines, schema: tried.append(lines[0]) or scan(lines, schema))
    rows = [json.dumps({"n": n, "t": ["nested"] if n < 100 else "x"}) for n in range(200)]
    rows.insert(150, "broken")
    shards = shards_of(written(tmp_path, "t.jsonl", "\n".join(["{}", *rows])))
    assert table_of(shards).column("n").to_pylist() == [None, *range(200)]
    assert [reject.line for reject in rejects_of(shards)] == [152]
    numbers = [json.loads(line).get("n") for line in tried if line != b"broken"]
    assert numbers[:6] == [None, 0, 3, 8, 17, 34] and numbers[7] == 100 and len(numbers) > 90
