"""Digests of columns: hashlib's, whoever computes them."""

import importlib.util
import json
import random
import shutil
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import secbatch
from secbatch import row_hash
from secbatch.row_hash import NULL, as_text, column_digests, hash_columns, hash_content

KINDS = {"string": pa.string(), "large_string": pa.large_string(), "binary": pa.binary(), "large": pa.large_binary()}
compiled = pytest.mark.skipif(row_hash._code is None, reason="no C compiler at installation")


@pytest.fixture(params=["compiled", "hashlib"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "hashlib":
        monkeypatch.setattr(row_hash, "_code", None)
    elif row_hash._code is None:
        pytest.skip("no C compiler at installation")


def values(count: int) -> list[bytes | None]:
    """Of all lengths around those of BLAKE2b's blocks, and nulls."""
    draw = random.Random(count)
    lengths = [0, 1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 384, 1000, 70_000]
    return [None if draw.random() < 0.1 else draw.randbytes(draw.choice(lengths)) for _ in range(count)]


def by_hashlib(values: list[bytes | None]) -> np.ndarray:
    made = [NULL if value is None else blake2b(value, digest_size=16).digest() for value in values]
    return np.frombuffer(b"".join(made), "<u8").reshape(-1, 2)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_value_has_its_own(kind: pa.DataType) -> None:
    found = values(400)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        found = [None if value is None else value.hex().encode() for value in found]
    column = pa.array([None if value is None else value.decode("latin-1") for value in found]).cast(kind)
    stored = column.cast(pa.large_binary()).to_pylist()
    assert np.array_equal(column_digests(column), by_hashlib(stored))


@pytest.mark.usefixtures("way")
def test_parts_of_columns() -> None:
    found = values(300)
    column = pa.array(found)
    assert np.array_equal(column_digests(column.slice(77, 123)), by_hashlib(found[77:200]))
    chunks = [column.slice(3, 5), column.slice(100, 0), column.slice(7, 290)]
    assert np.array_equal(column_digests(pa.chunked_array(chunks)), by_hashlib(found[3:8] + found[7:297]))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("found", [[], [None], [b""], [None, b"", b"\0"]])
def test_hardly_anything(found: list[bytes | None]) -> None:
    made = column_digests(pa.array(found, pa.binary()))
    assert made.shape == (len(found), 2) and made.dtype == np.dtype("<u8")
    assert np.array_equal(made, by_hashlib(found))
    assert column_digests(pa.chunked_array([], pa.string())).shape == (0, 2)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary(3), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_columns_that_lie_otherwise_in_memory(kind: pa.DataType) -> None:
    found = [b"abc", b"abd", None, b"abc"]
    if kind == pa.binary(3):
        column = pa.array(found, kind)
    else:
        column = pa.array([value and value.decode() for value in found]).cast(kind)
    assert np.array_equal(column_digests(column), by_hashlib(found))


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.binary(3), pa.timestamp("s", "+01:00"), pa.timestamp("s", "Mars/Base"), pa.uuid()], ids=str
)
def test_a_dictionary_holds_what_its_values_are(kind: pa.DataType) -> None:
    if kind == pa.uuid():
        plain = pa.ExtensionArray.from_storage(kind, pa.array([b"\xff" * 16, None, bytes(16)], pa.binary(16)))
        dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), plain)
    else:
        values = [b"\xffbc", None, b"abc"] if pa.types.is_binary(kind) or kind == pa.binary(3) else [7, None, 1 << 31]
        plain = pa.array(values).cast(kind)
        dictionary = plain.dictionary_encode()
    found = as_text(pa.chunked_array([dictionary]))
    assert found.to_pylist() == as_text(pa.chunked_array([plain])).to_pylist()


def row_texts(columns: dict[str, list[str | None]]) -> list[bytes | None]:
    made = []
    for row in zip(*columns.values(), strict=True):
        cells = {f"{name}=": value for name, value in zip(columns, row, strict=True)}
        texts = (
            f"{label}null:" if v is None else f"{label}{len(v.encode())}:{v}" for label, v in sorted(cells.items())
        )
        made.append("".join(texts).encode())
    return made


def chunked(values: list[str | None], draw: random.Random) -> pa.ChunkedArray:
    """In chunks of any size, some empty, which begin amid their buffers."""
    ends = sorted([0, *draw.choices(range(len(values) + 1), k=draw.randrange(4)), len(values)])
    before = pa.array(["before", None])
    return pa.chunked_array(
        [pa.concat_arrays([before, pa.array(values[start:end], pa.string())]).slice(2) for start, end in pairwise(ends)]
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("seed", range(8))
def test_each_row_has_its_own(seed: int) -> None:
    """Names and values of all lengths around those of blocks, in any order of columns, in chunks of any size."""
    draw = random.Random(seed)
    lengths = [0, 0, 1, 2, 9, 10, 11, 99, 100, 101, 119, 127, 128, 129, 256, 300, 5_000]
    columns = {
        draw.choice("bca") * draw.choice([0, 1, 2, 7, 125, 127, 128, 260]): [
            None if draw.random() < 0.2 else draw.choice("xé") * draw.choice(lengths) for _ in range(90)
        ]
        for _ in range(draw.choice([1, 2, 3, 12]))
    }
    table = pa.table({name: chunked(values, draw) for name, values in columns.items()})
    assert np.array_equal(hash_content(table), by_hashlib(row_texts(columns)))
    if len(columns) > 1:
        assert np.array_equal(hash_columns(table, [*columns][::-1]), by_hashlib(row_texts(columns)))


@pytest.mark.usefixtures("way")
def test_rows_of_nothing() -> None:
    assert hash_content(pa.table({"a": pa.array([], pa.string())})).shape == (0, 2)
    none = pa.table({"a": ["x", "y"]}).select([])
    assert np.array_equal(hash_content(none), by_hashlib([b""] * none.num_rows))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.list_(pa.string()), [["\0"], None, [], ["a", None, "\0"], ["\0", "\0", "\0"], ['", "']]),
        (pa.list_(pa.int64()), [[1, 2], [], None, [None]]),
        (
            pa.struct([("a", pa.binary()), ("b", pa.map_(pa.string(), pa.float64()))]),
            [{"a": b"\xff", "b": [("x", 1.5)]}],
        ),
    ],
    ids=["marks", "numbers", "struct"],
)
@pytest.mark.parametrize("together", [1, 2, 1024])
def test_nested_values_are_json_each_for_itself(
    kind: pa.DataType, values: list[Any], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_hash, "_TOGETHER", together)
    column = pa.chunked_array([pa.array(values, kind), pa.array([], kind), pa.array(values, kind).slice(1)])
    wanted = [None if v is None else json.dumps(v, sort_keys=True, default=repr) for v in column.to_pylist()]
    found = as_text(column)
    assert found.type == pa.large_string() and found.to_pylist() == wanted
    assert as_text(column.slice(0, 0)).to_pylist() == []


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_utc_are_what_arrow_makes_of_them(unit: str) -> None:
    parts = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    known = [0, 1, -1, 1_700_000_000 * parts + 123 % parts, None, -(10**9) * parts, (1 << 33) * parts]
    for numbers in (known, [*known, (1 << 63) - 1], [None], []):  # the last of the second is beyond all calendars
        column = pa.chunked_array([pa.array(numbers, pa.int64()).cast(pa.timestamp(unit, "UTC"))])
        assert as_text(column).equals(column.cast(pa.large_string()))


def test_code_is_there_where_it_can_be() -> None:
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if not (shutil.which("cc") and headers and sys.byteorder == "little"):
        pytest.skip("no C compiler, no headers of Python, or the other order of bytes")
    assert row_hash._code is not None


@pytest.mark.parametrize(("interface", "called"), [(row_hash._INTERFACE, True), (row_hash._INTERFACE + 1, False)])
def test_code_that_another_installation_left_is_not_called(
    monkeypatch: pytest.MonkeyPatch, interface: int, called: bool
) -> None:
    left = SimpleNamespace(INTERFACE=interface)
    monkeypatch.setattr(secbatch, "row_digests", left, raising=False)
    monkeypatch.setitem(sys.modules, "secbatch.row_digests", left)  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("another_row_hash", row_hash.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module._code is left) == called


@compiled
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_object_of_python_s_is_made_for_a_value(kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(row_hash, "digests")
    column = pa.chunked_array([pa.array(["a", None], kind), pa.array([], kind), pa.array(["b"], kind)])
    assert np.array_equal(column_digests(column), by_hashlib([b"a", None, b"b"]))
    monkeypatch.delattr(row_hash, "_joined")
    texts = row_texts({"x": ["a", None, "b"], "y": ["c", "d", None]})
    rows = pa.table({"y": ["c", "d", None], "x": ["a", None, "b"]})
    assert np.array_equal(hash_content(rows), by_hashlib(texts))


@compiled
def test_offsets_that_lead_out_of_the_values_are_refused() -> None:
    column: Callable[..., Any] = row_hash._code.column
    text, out = np.frombuffer(b"some text", np.uint8), np.zeros((2, 2), "<u8")
    for ends in ([0, 4, 10], [0, 5, 4], [-1, 2, 3]):
        offsets = np.array(ends, np.int64)
        with pytest.raises(ValueError, match="lead out"):
            column((text.ctypes.data, offsets.ctypes.data, 0, out.ctypes.data), (len(text), 0, 2), True, NULL)
    with pytest.raises(ValueError, match="16 bytes"):
        column((text.ctypes.data, offsets.ctypes.data, 0, out.ctypes.data), (len(text), 0, 0), True, NULL[:8])


@compiled
def test_offsets_of_rows_that_lead_out_of_the_values_are_refused() -> None:
    rows: Callable[..., Any] = row_hash._code.rows
    text, out, fits = np.frombuffer(b"some text", np.uint8), np.zeros((2, 2), "<u8"), np.array([0, 4, 9], np.int64)
    for ends in ([0, 4, 10], [0, 5, 4], [-1, 2, 3]):
        offsets = np.array(ends, np.int64)
        described = [(b"a=", text.ctypes.data, one.ctypes.data, 0, len(text), 0) for one in (fits, offsets)]
        with pytest.raises(ValueError, match="lead out"):
            rows(tuple(described), 2, out.ctypes.data)
    with pytest.raises(TypeError):
        rows(((b"a=", text.ctypes.data),), 2, out.ctypes.data)
    with pytest.raises(TypeError):
        rows([(b"a=", text.ctypes.data, fits.ctypes.data, 0, len(text), 0)], 2, out.ctypes.data)


@compiled
def test_others_run_python_meanwhile() -> None:
    """What feeds a GPU wants the interpreter all the time."""
    column, seen, done = pa.array([b"x" * 40_000_000] * 4), [], threading.Event()

    def hashing() -> None:
        column_digests(column)
        done.set()

    thread = threading.Thread(target=hashing)
    begin = time.monotonic()
    thread.start()
    while not done.is_set():
        seen.append(time.monotonic())
        time.sleep(0)
    thread.join()
    longest = max(after - before for before, after in zip([begin, *seen], [*seen, time.monotonic()], strict=True))
    assert longest < 0.8 * (time.monotonic() - begin)
