"""Whoever follows a run hears of it while a shard is in work; rows are done when the shard is."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_task import Counter, UpperTask, install_in

from secbatch import shard_stages
from secbatch.errors import OutOfTime
from secbatch.job import Job
from secbatch.run_options import RunOptions
from secbatch.runner import run_job
from secbatch.work_done import work_in_hand

ROWS = 40
WAITS = "On cuda:0 there is no memory."


class Follower:
    """A reporter that keeps what it is told; `heard` waits until something is."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []
        self.said: list[str] = []
        self.news = threading.Condition()

    def notice(self, text: str) -> None:
        with self.news:
            self.said.append(text)
            self.news.notify_all()

    def progress(self, rows: int, rejected: int, fraction: float) -> None:
        with self.news:
            self.told.append((rows, fraction))
            self.news.notify_all()

    def heard(self, what: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(what, 20)


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    monkeypatch.setattr(shard_stages, "TELL_SECONDS", 0.01)
    counter = install_in(tmp_path, monkeypatch, (20,))
    Path("in.csv").write_text("\n".join(["text", *(f"row {number}" for number in range(ROWS))]))
    return counter


def job() -> Job:
    task = {"type": "embed", "model": "m", "text": "text"}
    return Job.model_validate(
        {"name": "t", "input": {"path": "in.csv"}, "tasks": {"a": task, "b": task}, "output": {"path": "out"}}
    )


def while_a_shard_is_computed(monkeypatch: pytest.MonkeyPatch, at: int, then: Callable[[], None]) -> None:
    """`then()` is called in the computation of a task; the tasks of each shard have one number after another."""
    compute, calls = UpperTask.compute, [0]

    def slow(self: UpperTask, encoded: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            then()
        return compute(self, encoded)

    monkeypatch.setattr(UpperTask, "compute", slow)


def test_the_share_moves_and_no_row_counts_before_its_shard_is_done(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, seen = Follower(), {}

    def half() -> None:
        work_in_hand().reached(0.5)  # of the second task of the second shard
        follower.heard(lambda: (20, 0.875) in follower.told)
        deadline = time.monotonic() + 20
        while (seen.get("fraction"), seen.get("enriched")) != (0.875, 20) and time.monotonic() < deadline:
            seen.update(json.loads(Path("out/_secbatch/progress.json").read_text()))
            time.sleep(0.05)

    while_a_shard_is_computed(monkeypatch, 4, half)
    monkeypatch.setattr("secbatch.store.progress.INTERVAL_SECONDS", 0.05)
    result = run_job(job(), reporter=follower)
    assert result.enriched == ROWS and follower.told[-1] == (ROWS, 1.0)
    assert [seen[key] for key in ("fraction", "enriched")] == [0.875, 20]
    assert {rows for rows, _ in follower.told} == {0, 20, ROWS}
    shares = [fraction for _, fraction in follower.told]
    assert shares == sorted(shares)


def test_rows_that_are_kept_move_with_those_of_their_shard(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(job())
    Path("in.csv").write_text("\n".join(["text", *(f"row {number}" for number in range(30)), *map(str, range(10))]))
    follower = Follower()

    def half() -> None:
        work_in_hand().reached(0.5)  # of the second task, for half of the second shard
        follower.heard(lambda: (20, 0.875) in follower.told)

    while_a_shard_is_computed(monkeypatch, 2, half)
    result = run_job(job(), reporter=follower)
    assert (result.enriched, result.reused, follower.told[-1]) == (10, 30, (ROWS, 1.0))


class Elsewhere(UpperTask):
    """As one that a server computes: it goes on while the other tasks of the shard do."""

    asks_at_once = 16

    def ask(self, encoded: Any) -> "Asked":
        work_in_hand().reached(0.5)
        return Asked(self.compute(encoded))

    def abandon(self) -> None:
        return


@dataclass
class Asked:
    answer: Any

    @property
    def begun(self) -> threading.Event:
        event = threading.Event()
        event.set()
        return event

    def land(self) -> Any:
        return self.answer


def test_what_a_server_does_counts_beside_what_is_done_here(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str, spec: Any, *_: Any) -> UpperTask:
        return (Elsewhere if name == "b" else UpperTask)(name, spec, counter)

    monkeypatch.setattr("secbatch.worker.build_task", build)
    follower = Follower()

    def half() -> None:
        work_in_hand().reached(0.9)
        follower.heard(lambda: (0, pytest.approx(0.35)) in follower.told)

    while_a_shard_is_computed(monkeypatch, 2, half)  # `b` is asked first
    assert run_job(job(), reporter=follower).enriched == ROWS


class Encoding(UpperTask):
    """As one that looks at an encoder's states."""

    encoder, repeats = SimpleNamespace(root=object(), precision=None, abandon=lambda: None), None

    def encoded(self, recalled: Any) -> Any:
        raise NotImplementedError

    def prepare(self, encoded: Any) -> Any:
        raise NotImplementedError


def test_an_encoder_s_part_counts_beside_that_of_other_tasks(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    def together(tasks: dict[str, UpperTask], stage: dict[str, Any]) -> dict[str, Any]:
        return {name: task.compute(stage[name]) for name, task in tasks.items()}

    def build(name: str, spec: Any, *_: Any) -> UpperTask:
        return (Encoding if name == "a" else UpperTask)(name, spec, counter)

    monkeypatch.setattr("secbatch.worker.build_task", build)
    monkeypatch.setattr("secbatch.worker.compute_together", together)
    follower = Follower()

    def half() -> None:
        work_in_hand().reached(0.5)
        follower.heard(lambda: (0, 0.375) in follower.told)

    while_a_shard_is_computed(monkeypatch, 2, half)  # `b` is computed first
    assert run_job(job(), reporter=follower).enriched == ROWS


def test_a_run_that_stops_in_time_tells_of_finished_shards_alone(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, stop = Follower(), time.time() + 3600
    while_a_shard_is_computed(monkeypatch, 2, lambda: monkeypatch.setattr(shard_stages.time, "time", lambda: stop))
    with pytest.raises(OutOfTime, match=r"with (0 rows done and about 100%|20 rows done and about 50%)"):
        run_job(job(), options=RunOptions(until=stop), reporter=follower)


def test_what_holds_up_a_shard_is_said_once_while_it_does(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower()

    def wait() -> None:
        with work_in_hand().waiting(WAITS):
            follower.heard(lambda: WAITS in follower.said)
            time.sleep(0.1)

    while_a_shard_is_computed(monkeypatch, 1, wait)
    result = run_job(job(), reporter=follower)
    assert follower.said.count(WAITS) == result.notices.count(WAITS) == 1
