"""Columns of the types that pandas, DuckDB and others write: same values, each row once, also after an interrupt."""

import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fake_task import Counter, install_in, interrupted_after
from nights import job

from secbatch.cli.main import _run
from secbatch.errors import InputError
from secbatch.job import Job
from secbatch.runner import run_job
from secbatch.store.layout import Layout
from secbatch.store.rollback import roll_back

UUIDS = [uuid.UUID(int=2**128 - 1 - number) for number in range(6)]  # their bytes are no UTF-8
FAR = 2**62  # microseconds: a year that Python's datetime does not have


def _uuids() -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in UUIDS], pa.binary(16)))


def _lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), values)


def _structs(values: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([values], names=["a"])


def _times(kind: pa.DataType) -> pa.Array:
    return pa.array([0, FAR, None, -FAR, FAR + 1, 1], pa.int64()).cast(kind)


COLUMNS = {
    "uuid": _uuids,
    "uuids in lists": lambda: _lists(_uuids()),
    "uuids in structs": lambda: _structs(_uuids()),
    "far times in lists": lambda: _lists(_times(pa.timestamp("us"))),
    "far times in views of lists": lambda: pa.ListViewArray.from_arrays(
        pa.array(range(6), pa.int32()), pa.array([1] * 6, pa.int32()), _times(pa.timestamp("us"))
    ),
    "far times in maps": lambda: pa.MapArray.from_arrays(
        pa.array(range(7), pa.int32()), pa.array(list("abcdef")), _times(pa.timestamp("us"))
    ),
    "far times in structs": lambda: _structs(_times(pa.timestamp("us", "UTC"))),
    "a zone nobody knows": lambda: _times(pa.timestamp("us", "Nowhere/City")),
    "a zone nobody knows, in lists": lambda: _lists(_times(pa.timestamp("us", "Nowhere/City"))),
    "vectors": lambda: pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), (2,)), pa.array([[n, 1] for n in range(6)], pa.list_(pa.float32(), 2))
    ),
    "pairs without values": lambda: pa.array([[None, None], None] * 3, pa.list_(pa.null(), 2)),
}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (2, 3))


def parquet_job(**changes: Any) -> Job:
    return job(input={"path": "in/*.parquet"}, **changes)


def write(name: str, **columns: Any) -> None:
    Path("in").mkdir(exist_ok=True)
    table = pa.table(columns)
    text = pa.array([f"word {number}" for number in range(table.num_rows)])
    pq.write_table(table.append_column("text", text), f"in/{name}", row_group_size=4)


def shown(path: str, column: str = "v") -> list[str]:
    table = ds.dataset(f"{path}/data", format="parquet", partitioning="hive").to_table()
    order = [str(text) for text in table["text"]]
    return [str(value) for _, value in sorted(zip(order, table[column], strict=True), key=lambda pair: pair[0])]


@pytest.fixture(params=["zoneinfo", "pytz"])
def zones(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow asks the standard library for a zone, and then pytz, where that is installed."""

    def timezone(name: str) -> None:
        raise type("UnknownTimeZoneError", (KeyError,), {})(name)

    monkeypatch.setitem(sys.modules, "pytz", SimpleNamespace(timezone=timezone) if request.param == "pytz" else None)


@pytest.mark.usefixtures("zones")
@pytest.mark.parametrize("name", COLUMNS)
def test_values_come_out_as_they_went_in_and_once(name: str, counter: Counter) -> None:
    column = COLUMNS[name]()
    write("a.parquet", v=column)
    result = run_job(parquet_job())
    assert (result.enriched, result.rejected) == (6, 0)
    out = ds.dataset("out/data").to_table().column("v").combine_chunks()
    pairs = zip(_bare(out), _bare(column), strict=True)
    assert all(found == want for found, want in pairs)
    assert run_job(parquet_job()).enriched == 0
    with interrupted_after(counter.rows + 2):
        run_job(parquet_job(output__path="again"))
    before = counter.rows
    run_job(parquet_job(output__path="again"))
    assert 0 < counter.rows - before < 6
    assert ds.dataset("again/data").to_table().column("v").combine_chunks().equals(out)


def _bare(column: pa.Array) -> list[Any]:
    """Values that Python has, of any type."""
    if isinstance(column.type, pa.BaseExtensionType):
        return _bare(column.storage)
    if pa.types.is_struct(column.type):
        return _bare(column.field(0))
    if pa.types.is_list(column.type) or pa.types.is_list_view(column.type):
        return _bare(column.flatten())
    if pa.types.is_map(column.type):
        return _bare(column.items)
    return column.cast(pa.int64()).to_pylist() if pa.types.is_timestamp(column.type) else column.to_pylist()


def test_uuids_name_rows_as_they_are_written_everywhere(counter: Counter) -> None:
    write("a.parquet", v=_uuids())
    run_job(parquet_job(input__id=["v"]))
    assert sorted(shown("out", "secbatch_id")) == sorted(map(str, UUIDS))
    write("b.parquet", v=_uuids().slice(0, 2))
    result = run_job(parquet_job(input__id=["v"]))
    assert (result.superseded, len(shown("out"))) == (2, 6)


def test_a_pandas_categorical_is_a_partition_column_as_text_is(counter: Counter) -> None:
    days = ["mon", "tue", None, "mon", "007", "a/b"]
    write("a.parquet", v=pa.array(days).dictionary_encode())
    partitioned = parquet_job(output={"path": "out", "partition_by": ["v"]})
    result = run_job(partitioned)
    assert (result.enriched, result.rejected) == (6, 1)
    assert shown("out") == ["mon", "tue", "None", "mon", "None", "a/b"]
    assert run_job(partitioned).enriched == 0
    write("a.parquet", v=pa.array(days))
    result = run_job(partitioned)  # a row rejected for its partition is so still; what its task has done stands
    assert (result.enriched, result.reused, result.rejected, len(shown("out"))) == (0, 6, 1, 6)


def test_categories_of_many_files_may_be_more_than_those_of_one(counter: Counter) -> None:
    Path("in").mkdir()
    for file in range(3):
        names = [f"host {file} {number}" for number in range(100)]  # pandas gives them places of 8 bits
        rows = pd.DataFrame({"v": pd.Categorical(names), "text": names})
        rows.to_parquet(f"in/{file}.parquet")
    assert "indices=int8" in str(pq.read_schema("in/0.parquet").field("v").type)
    result = run_job(parquet_job())
    assert (result.enriched, result.rejected) == (300, 0)
    table = ds.dataset("out/data").to_table()
    assert table["v"].to_pylist() == table["text"].to_pylist()


def test_a_column_may_be_text_one_night_and_categorical_the_next(counter: Counter) -> None:
    names = ["a", "b", "a", None, "c", "a"]
    for column in (pa.array(names), pa.array(names).dictionary_encode(), pa.array(names)):
        write("a.parquet", v=column)
        run_job(parquet_job(input__id=["text"]))
        assert shown("out") == [str(name) for name in names]
    assert counter.rows == 6


def test_a_struct_with_two_fields_of_one_name_is_refused(counter: Counter) -> None:
    write("a.parquet", v=pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    with pytest.raises(InputError, match=r"a\.parquet: column 'v' has the field 'a' twice; rename its fields"):
        run_job(parquet_job())


@pytest.mark.parametrize(
    "narrower",
    [pa.nulls(2), pa.array([7, None], pa.int32()), pa.array([7, None], pa.uint8())],
)
def test_a_night_of_narrower_types_takes_those_of_the_dataset(narrower: pa.Array, counter: Counter) -> None:
    write("a.parquet", v=pa.array([1, 2**40, None]))
    run_job(parquet_job(input__id=["text"]))
    version = Path("out/data").resolve()
    write("a.parquet", v=narrower)
    result = run_job(parquet_job(input__id=["text"]))
    assert (result.rejected, result.exit_code) == (0, 0) and Path("out/data").resolve() != version
    table = ds.dataset("out/data").to_table().sort_by("text")
    assert table["v"].to_pylist() == [*narrower.to_pylist(), None] and table["v"].type == pa.int64()
    write("a.parquet", v=narrower)
    assert not run_job(parquet_job(input__id=["text"])).published


def test_they_are_those_of_the_newest_version_also_where_somebody_has_turned_the_link(counter: Counter) -> None:
    for values in (pa.array([1, 2], pa.int32()), pa.array([2**40, 2], pa.int64())):
        write("a.parquet", v=values)
        run_job(parquet_job())
    first = min(Path("out/_secbatch/versions").iterdir())
    write("a.parquet", v=pa.array([3, 4], pa.int32()))
    for link in (None, first):
        Path("out/data").unlink()
        if link:
            Path("out/data").symlink_to(f"_secbatch/versions/{link.name}")
        run_job(parquet_job())
        assert ds.dataset("out/data").to_table().column("v").to_pylist() == [3, 4]
        assert ds.dataset("out/data").schema.field("v").type == pa.int64()


def test_rows_that_stay_are_written_anew_for_the_types_of_each_version(counter: Counter) -> None:
    """Also where the same of them were for another version, which somebody has gone back from."""
    spec = parquet_job(input__id=["text"], output={"path": "out", "partition_by": ["text"]})
    versions = []
    for kind, values in ((pa.int8(), [1, 2, 3]), (pa.int32(), [1]), (pa.int64(), [1])):
        write("a.parquet", v=pa.array(values, kind))
        if len(versions) == 2:
            roll_back(Layout(Path("out")), to=versions[0])
        versions.append(run_job(spec).version)
        assert {pq.read_schema(file).field("v").type for file in Path("out/data").rglob("*.parquet")} == {kind}
        assert shown("out") == ["1", "2", "3"]


@pytest.mark.parametrize("narrower", [pa.nulls(2), pa.array([7, None], pa.int32()), pa.array([7, None], pa.uint8())])
def test_a_night_of_narrower_partitions_takes_the_types_of_the_dataset(narrower: pa.Array, counter: Counter) -> None:
    partitioned = {"path": "out", "partition_by": ["v"]}
    write("a.parquet", v=pa.array([1, 2**40, 9]))
    run_job(parquet_job(input__id=["text"], output=partitioned))
    write("a.parquet", v=narrower)
    result = run_job(parquet_job(input__id=["text"], output=partitioned))
    assert (result.rejected, result.exit_code, result.enriched) == (0, 0, 0)
    table = ds.dataset("out/data", partitioning="hive").to_table().sort_by("text")
    assert table["v"].to_pylist() == [*narrower.to_pylist(), 9] and counter.rows == 3


def test_a_night_of_wider_partitions_widens_those_of_the_dataset(counter: Counter) -> None:
    partitioned = {"path": "out", "partition_by": ["v"]}
    for wide in (pa.int32(), pa.int64(), pa.int32()):
        write("a.parquet", v=pa.array([1, 7, None], wide))
        assert run_job(parquet_job(input__id=["text"], output=partitioned)).exit_code == 0
    table = ds.dataset("out/data", partitioning="hive").to_table().sort_by("text")
    assert table["v"].to_pylist() == [1, 7, None] and counter.rows == 3


def test_with_overwrite_types_are_those_of_the_input(counter: Counter) -> None:
    for kind in (pa.int64(), pa.int32()):
        write("a.parquet", v=pa.array([1, 2], kind))
        run_job(parquet_job(output={"path": "out", "mode": "overwrite"}))
        assert ds.dataset("out/data").schema.field("v").type == kind


@pytest.mark.usefixtures("zones")
def test_show_prints_times_that_python_cannot_hold(counter: Counter, capsys: pytest.CaptureFixture[str]) -> None:
    days = pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32())  # DuckDB's `infinity` is the first of them
    write("a.parquet", day=days, seen=_times(pa.timestamp("us", "Nowhere/City")).slice(0, 2), v=_lists(days))
    run_job(parquet_job(input__id=["text"]))
    assert _run(["show", "out"]) == 0
    printed = capsys.readouterr().out
    assert "word 0" in printed and "word 1" in printed and "Internal failure" not in printed
