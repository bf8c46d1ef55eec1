"""Parts that are written while the run goes on are those that its last publication would have written."""

import errno
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import install
from kills import dataset

from secbatch.errors import OutputError
from secbatch.job import Job
from secbatch.publishing import Publisher
from secbatch.runner import run_job
from secbatch.store import merge, parts, parts_ahead
from secbatch.store.parts_ahead import PartsAhead

ROWS = 2000


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (64, 100))
    monkeypatch.setattr("secbatch.running.new_run_id", lambda: "tonight")
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
        monkeypatch.setattr(parts, "row_group_rows", lambda table: 130)
    if case == "parts of one shard":
        monkeypatch.setattr(merge, "FULL_BYTES", 1)
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
    monkeypatch.setattr("secbatch.running.PUBLISH_SECONDS", 0.0)
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
