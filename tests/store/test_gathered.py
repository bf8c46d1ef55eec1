"""Many small parts at once: gathered rows make the files that reading piece by piece makes, and fsyncs are shared."""

from collections import Counter as Counts
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_task import Counter, install_in
from kills import dataset
from nights import WITH_ID, job

from secbatch.runner import run_job
from secbatch.store import faults, gathered, merge

PARTITIONS, ROWS = 12, 220
OUTPUT = {"path": "out", "partition_by": ["day"], "removed": "mark"}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda: "tonight")
    return install_in(tmp_path, monkeypatch, (40, 90))


def write_night(night: int, note: pa.DataType) -> None:
    """Nested values and nulls; later nights change, add and drop rows, and give some ids a second row."""
    rows: list[dict[str, Any]] = []
    for number in range(ROWS + 50 * night):
        changed = bool(night) and number % 11 == 0
        if not (night and number % 97 == 5):
            text = f"text {number} of night {night if changed else 0}"
            values = None if number % 7 == 0 else [{"a": f"a {number % 5}", "b": [number, None]}] * (number % 3)
            day = f"d{(number + changed) % PARTITIONS}"
            rows.append({"id": number, "day": day, "text": text, "note": f"note {number % 9}", "values": values})
    rows += [{**rows[place], "text": f"again in night {night}"} for place in range(0, 60, 13)]
    Path("in").mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.set_column(3, "note", table.column("note").cast(note)), "in/a.parquet")


def two_nights(monkeypatch: pytest.MonkeyPatch, folder: Path, note: pa.DataType) -> Iterator[dict[str, str]]:
    """The dataset after each."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    for night in range(2):
        monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda night=night: f"night{night}")
        write_night(night, note)
        run_job(job(input={**WITH_ID, "path": "in/*.parquet"}, output=OUTPUT))
        yield dataset(folder)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Callable[[pa.DataType], list[dict[str, str]]]:
    """The datasets of the nights whose parts are read piece by piece."""

    @cache
    def made(note: pa.DataType) -> list[dict[str, str]]:
        folder = tmp_path_factory.mktemp("one-by-one")
        with pytest.MonkeyPatch.context() as patch:
            install_in(folder, patch, (40, 90))
            patch.setattr(merge, "gathered", lambda groups, schema: [None] * len(groups))
            return list(two_nights(patch, folder / "nights", note))

    return made


@pytest.mark.parametrize("case", ["at once", "small batches", "too much for the memory", "dictionaries"])
def test_gathered_rows_make_the_same_files(
    counter: Counter,
    one_by_one: Callable[[pa.DataType], list[dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    case: str,
) -> None:
    note = pa.dictionary(pa.int32(), pa.string()) if case == "dictionaries" else pa.string()
    expected = one_by_one(note)
    gives: list[bool] = []

    def watched(groups: list[Any], schema: pa.Schema) -> list[Any]:
        found = list(gathered.gathered(groups, schema))
        gives.extend(one is not None for one in found if "note" in schema.names)
        return found

    fits: list[bool] = []
    add = gathered._Found.add
    monkeypatch.setattr(gathered._Found, "add", lambda self, pieces: fits.append(add(self, pieces)) or fits[-1])
    monkeypatch.setattr(merge, "gathered", watched)
    if case == "small batches":
        monkeypatch.setattr(gathered, "BATCH_PARTS", 5)
    if case == "too much for the memory":
        monkeypatch.setattr(gathered, "GATHERED_BYTES", 12_000)
    assert list(two_nights(monkeypatch, tmp_path / case, note)) == expected
    assert len(expected[0]) == PARTITIONS
    assert any(gives) == (case != "dictionaries")
    assert False in fits if case == "too much for the memory" else False not in fits


def test_fsyncs_of_many_partitions_are_few(counter: Counter) -> None:
    """A folder of keys, of parts and of the version each has one, and so has each file; what is above them as well."""
    Path("in").mkdir()
    lines = [f"{number},d{number % 50},text {number}" for number in range(300)]
    Path("in/a.csv").write_text("\n".join(["id,day,text", *lines]) + "\n")
    steps: Counts[tuple[str, str]] = Counts()
    faults.install(record=lambda operation, path, *rest: steps.update([(operation, str(path))]))
    try:
        run_job(job(input=WITH_ID, output=OUTPUT))
    finally:
        faults.install()
    versions = 2  # the first shard is shown by itself
    shown = {
        path: count for (operation, path), count in steps.items() if operation == "fsync folder" and "day=" in path
    }
    assert len(shown) == 2 * 50 + 50 + 40 and max(shown.values()) == versions
    assert sum(shown.values()) <= versions * 3 * 50
    above = [count for (operation, path), count in steps.items() if operation == "fsync folder" and "day=" not in path]
    assert sum(above) < 60  # eight checkpoints have two each


def equal_rows(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, str]:
    """The dataset after a night without one of two files of equal rows, some of which stand for the others then."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("in").mkdir()
    lines = [f"text {number},d{number % PARTITIONS}" for number in range(ROWS)]
    for name, some in (("a.csv", lines), ("b.csv", lines[: ROWS // 2])):
        Path("in", name).write_text("\n".join(["text,day", *some]) + "\n")
    for night in range(2):
        monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda night=night: f"night{night}")
        run_job(job(output=OUTPUT | {"max_removed": "100%"}))
        Path("in/a.csv").unlink(missing_ok=True)
    return dataset(folder)


def test_rows_that_stand_for_others_are_gathered_and_make_the_same_files(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "gathered", lambda groups, schema: [None] * len(groups))
        expected = equal_rows(patch, tmp_path / "one-by-one")
    moved: list[bool] = []

    def watched(groups: list[Any], schema: pa.Schema) -> list[Any]:
        found = list(gathered.gathered(groups, schema))
        pairs = zip(groups, found, strict=True)
        moved.extend(one is not None for group, one in pairs if any(piece.moved is not None for piece in group))
        return found

    monkeypatch.setattr(merge, "gathered", watched)
    assert equal_rows(monkeypatch, tmp_path / "gathered") == expected
    assert moved == [True] * PARTITIONS


def test_a_checkpoint_is_read_once_for_parts_of_which_rows_change(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads: Counts[str] = Counts()
    read = gathered.row_groups

    def counted(file: Path, *rest: Any) -> Iterator[tuple[int, pa.Table]]:
        reads[str(file)] += 1
        return read(file, *rest)

    for module in ("gathered", "pieces"):
        monkeypatch.setattr(f"secbatch.store.{module}.row_groups", counted)
    equal_rows(monkeypatch, tmp_path / "nights")
    assert max(reads.values()) <= 4  # once a night, and once each for rows that give way
