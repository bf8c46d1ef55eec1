"""What a run's stages are given beside a GPU, and beside a CPU."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from fake_task import install_in, interrupted_after
from nights import job, rows, write

from secbatch import shard_stages
from secbatch.finished_shards import FinishedShards
from secbatch.job import Job
from secbatch.runner import run_job
from secbatch.shard_lookup import ShardLookup
from secbatch.shard_stages import ShardStages


@pytest.fixture
def interval() -> Iterator[float]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.01)
    yield 0.01
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("device", "waiting", "writers", "turns"), [("cpu", 1, 2, 0.01), ("cuda:0", 2, 4, 0.0005)])
def test_a_gpu_has_more_writers_a_longer_queue_and_short_turns(
    device: str, waiting: int, writers: int, turns: float, interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Engine:
        def __init__(self, *_: Any, **settings: Any) -> None:
            seen["waiting"] = settings["waiting"]

        def __class_getitem__(cls, _: Any) -> Any:
            return cls

        def run(self) -> None:
            seen["turns"] = sys.getswitchinterval()

    class Writing(MagicMock):
        def __class_getitem__(cls, _: Any) -> Any:
            return lambda threads: seen.setdefault("writers", threads) and MagicMock()

    monkeypatch.setattr(shard_stages, "LocalEngine", Engine)
    monkeypatch.setattr(shard_stages, "InOrder", Writing)
    context = MagicMock()
    context.setup.compute.device = device
    ShardStages(context, MagicMock(), MagicMock(), MagicMock(), {}, {}).work()
    assert (seen["waiting"], seen["writers"]) == (waiting, writers)
    assert seen["turns"] == pytest.approx(turns, rel=0.05)
    assert sys.getswitchinterval() == pytest.approx(interval, rel=0.05)


ROWS = 12


@pytest.fixture
def large_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of shards of a row each, every one of which takes more memory than all together may."""
    install_in(tmp_path, monkeypatch, (1,))
    monkeypatch.setattr(shard_stages, "HELD_BYTES", 1)
    write("a.csv", "n,text", *(f"{row},row {row}" for row in range(ROWS)))
    return job()


def test_rows_above_what_may_be_held_go_through_one_after_another(
    large_rows: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, durable, underway = [], [], []
    looked_up, add = ShardLookup.looked_up, FinishedShards.add

    def reading(self: ShardLookup, identified: Any) -> Any:
        read.append(identified.shard.index)
        underway.append(len(read) - len(durable))
        return looked_up(self, identified)

    def finished(self: FinishedShards, shard: int, *rest: Any) -> None:
        durable.append(shard)
        add(self, shard, *rest)

    monkeypatch.setattr(ShardLookup, "looked_up", reading)
    monkeypatch.setattr(FinishedShards, "add", finished)
    run_job(large_rows)
    assert underway == [1] * ROWS
    assert durable == list(range(ROWS))
    assert rows()["up"].tolist() == [f"ROW {row}" for row in range(ROWS)]


def test_a_run_that_waits_for_rows_it_holds_can_be_stopped_and_goes_on(large_rows: Job) -> None:
    with interrupted_after(3):
        run_job(large_rows)
    assert run_job(large_rows).reused == 3
    assert rows()["up"].tolist() == [f"ROW {row}" for row in range(ROWS)]
