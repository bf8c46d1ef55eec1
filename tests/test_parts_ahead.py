"""Parts that are written while the run goes on are those that its last publication would have written."""

import errno
import os
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_task import install
from kills import dataset

from secbatch.errors import OutputError
from secbatch.job import Job
from secbatch.publishing import Publisher
from secbatch.runner import run_job
from secbatch.store import merge, parts, parts_ahead, pieces
from secbatch.store.ledger_records import Checkpoint
from secbatch.store.parts_ahead import PartsAhead

ROWS = 2000


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (64, 100))
    monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda: "tonight")
    install(monkeypatch)
    return tmp_path


def job(**more: Any) -> Job:
    values: dict[str, Any] = {
        "name": "ahead",
        "input": {"path": "in.csv"},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
        "output": {"path": "out"},
    }
    return Job.model_validate({**values, **more})


def write(place: Path, days: int = 1, twice: tuple[int, ...] = ()) -> None:
    """`twice`: rows that come again at the end, with other text."""
    rows = [f"{number},day{number * days // ROWS},a text of row {number}" for number in range(ROWS)]
    rows += [f"{number},day0,another text" for number in twice]
    (place / "in.csv").write_text("\n".join(["id,day,text", *rows]) + "\n")


def without_them(place: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, str]:
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "parts_ahead", lambda self: None)
        run_job(job(output={"path": "plain", **more.pop("output", {})}, **more))
    (place / "plain").rename(place / "out")
    expected = dataset(place)
    (place / "out").rename(place / "plain")
    return expected


@pytest.mark.parametrize("case", ["one part", "small parts", "small row groups", "parts of one shard"])
def test_the_same_bytes(case: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place)
    if case == "small parts":
        monkeypatch.setattr(merge, "PART_ROWS", 450)
    if case == "small row groups":
        monkeypatch.setattr(parts, "row_group_rows", lambda size, rows: 130)
    if case == "parts of one shard":
        monkeypatch.setattr(pieces, "FULL_BYTES", 1)
    expected = without_them(place, monkeypatch)
    before: list[int] = []
    finish = PartsAhead.finish

    def watched(self: PartsAhead) -> None:
        finish(self)
        before.append(len(list((place / "out/_secbatch/parts").glob("*.parquet"))))

    monkeypatch.setattr(PartsAhead, "finish", watched)
    run_job(job())
    assert dataset(place) == expected
    assert before[0] >= len(expected)  # all were there before the last publication began
    assert not list((place / "out/_secbatch").rglob("*.tmp"))


@pytest.mark.parametrize("full", [False, True])
def test_rows_of_a_shard_are_not_held_longer_than_they_are_of_use(
    full: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place)
    if full:
        monkeypatch.setattr(pieces, "FULL_BYTES", 1)
    given: list[weakref.ref[pa.Table] | None] = []
    write_one, finish = PartsAhead._write, PartsAhead.finish

    def watched(self: PartsAhead, checkpoint: Checkpoint, rows: pa.Table | None) -> None:
        given.append(None if rows is None else weakref.ref(rows))
        write_one(self, checkpoint, rows)

    def finished(self: PartsAhead) -> None:
        deadline = time.monotonic() + 20
        while (len(self._waiting) or any(one and one() is not None for one in given)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(given) > 5 and {one() if one else "nothing" for one in given} == {"nothing" if full else None}
        finish(self)

    monkeypatch.setattr(PartsAhead, "_write", watched)
    monkeypatch.setattr(PartsAhead, "finish", finished)
    run_job(job())


@pytest.mark.parametrize("days", [3, 30])
def test_partitions_few_and_many(days: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, days)
    more = {"output": {"path": "out", "partition_by": ["day"]}}
    expected = without_them(place, monkeypatch, output={"partition_by": ["day"]})
    run_job(job(**more))
    assert dataset(place) == expected and len(expected) >= days
    assert not list((place / "out/_secbatch").rglob("*.tmp"))


def test_a_row_that_is_replaced_by_a_later_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, twice=(3, 900))
    monkeypatch.setattr(merge, "PART_ROWS", 450)
    more = {"input": {"path": "in.csv", "id": ["id"]}}
    expected = without_them(place, monkeypatch, **more)
    run_job(job(**more))
    assert dataset(place) == expected
    seen = pd.read_parquet(place / "out" / "data")
    assert len(seen) == ROWS and set(seen[seen.text == "another text"]["id"]) == {"3", "900"}
    held = {path.name for path in (place / "out/_secbatch/parts").glob("*.parquet")}
    shown = {path.name.partition("-")[2] for path in (place / "out/_secbatch/versions").rglob("*.parquet")}
    assert held == shown  # the others are gone


def test_what_is_shown_in_between(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place)
    expected = without_them(place, monkeypatch)
    monkeypatch.setattr("secbatch.finished_shards.PUBLISH_SECONDS", 0.0)
    run_job(job())
    assert dataset(place) == expected


def test_a_disk_that_refuses_ends_the_run_with_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place)
    expected = without_them(place, monkeypatch)
    with monkeypatch.context() as patch:

        def refused(path: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(parts_ahead, "sync_file", refused)
        with pytest.raises(OutputError, match="full"):
            run_job(job())
        assert not list((place / "out/_secbatch").rglob("*.tmp"))
    run_job(job())
    assert dataset(place) == expected


def killed_after(shards: int, monkeypatch: pytest.MonkeyPatch, run: str, of: Job) -> None:
    finish = PartsAhead.add

    def add(self: PartsAhead, *of_a_shard: Any) -> None:
        nonlocal shards
        finish(self, *of_a_shard)
        shards -= 1
        if not shards:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("secbatch.run_identity.new_run_id", lambda: run)
        patch.setattr(PartsAhead, "add", add)
        with pytest.raises(RuntimeError, match="killed"):
            run_job(of)


@pytest.mark.parametrize("kind", ["text", "nested", "dictionary"])
def test_rows_at_hand_make_the_bytes_of_rows_read_back(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (777, 1500))
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 300_001)
    columns: dict[str, Any] = {"text": [f"{'a text ' * (n % 9)}of row {n}" for n in range(5000)]}
    if kind == "nested":
        words = [None if n % 7 == 0 else [{"word": f"w{n}", "score": n / 3}] * (n % 4) for n in range(5000)]
        columns["words"] = pa.array(words, pa.list_(pa.struct([("word", pa.string()), ("score", pa.float32())])))
    if kind == "dictionary":
        numbers = np.random.default_rng(5).integers(0, 9, 5000)
        columns["day"] = pa.array([None if n == 3 else f"day {n}" for n in numbers]).dictionary_encode()
    pq.write_table(pa.table(columns), place / "in.parquet")
    of = job(input={"path": "in.parquet"})
    expected = without_them(place, monkeypatch, input={"path": "in.parquet"})
    run_job(of)
    assert dataset(place) == expected
    (file,) = (place / "out/data").glob("*.parquet")
    assert pq.ParquetFile(file).num_row_groups > 2
    (place / "out").rename(place / "undisturbed")
    killed_after(2, monkeypatch, "tonight", of)
    run_job(of)
    assert dataset(place) == expected


def test_parts_of_another_run_are_not_taken_for_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place)
    monkeypatch.setattr(merge, "PART_ROWS", 450)
    output = {"path": "out", "mode": "overwrite"}
    killed_after(15, monkeypatch, "last night", job(output=output))
    assert list((place / "out/_secbatch/parts").glob("*.parquet"))
    result = run_job(job(output=output, max_rejects="2%"))  # another job: it does not go on with that run
    seen = pd.read_parquet(place / "out" / "data")
    assert result.enriched == len(seen) == ROWS and set(seen.secbatch_run) == {"tonight"}
