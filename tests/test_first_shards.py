"""Where texts are written, shards are not cut by a guess while the first one is about to tell the model's speed."""

import time
from pathlib import Path
from typing import Any

import pytest
from fake_task import UpperTask, install, interrupted_after
from nights import job, rows, write

from secbatch.errors import ModelError
from secbatch.runner import run_job
from secbatch.task_specs import writes_here

SECONDS_A_ROW = 0.002


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Rows of each shard, in the order of computation, by a task that takes its time."""
    monkeypatch.chdir(tmp_path)
    install(monkeypatch)
    shards: list[int] = []
    compute = UpperTask.compute

    def slowly(self: UpperTask, encoded: Any) -> Any:
        shards.append(len(encoded))
        time.sleep(len(encoded) * SECONDS_A_ROW)
        return compute(self, encoded)

    monkeypatch.setattr(UpperTask, "compute", slowly)
    return shards


def asked(kind: str, count: int) -> Any:
    write("a.csv", "n,text", *(f"{n},word {n}" for n in range(count)))
    task = {"type": kind, "model": "fake", "text": "text"}
    return job(tasks={"up": task})


@pytest.mark.parametrize("kind", ["chat", "seq2seq"])
def test_texts_are_written_for_many_rows_at_once_from_the_third_shard_on(computed: list[int], kind: str) -> None:
    run_job(asked(kind, 400))
    assert computed == [16, 32, 352]
    assert rows()["up"].tolist() == [f"WORD {n}" for n in range(400)]


def test_what_an_endpoint_writes_is_not_written_here() -> None:
    task = {"type": "chat", "model": "fake", "text": "text"}
    chats = job(tasks={"here": task, "there": {**task, "endpoint": "http://127.0.0.1:1/v1"}}).tasks
    assert writes_here(chats["here"]) and not writes_here(chats["there"])
    assert not writes_here(job().tasks["up"])


def test_first_shards_that_are_done_already_hold_nobody_up(computed: list[int]) -> None:
    run_job(asked("chat", 60))
    computed.clear()
    assert run_job(asked("chat", 160)).reused == 60
    assert sum(computed) == 100


def test_a_model_that_does_not_load_ends_the_run(computed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: UpperTask) -> None:
        time.sleep(0.2)  # the reader is through with what may be cut
        raise ModelError("its weights are broken")

    monkeypatch.setattr(UpperTask, "load", broken)
    with pytest.raises(ModelError, match="its weights are broken"):
        run_job(asked("chat", 400))


def test_an_interrupt_in_the_first_shard_ends_the_run(computed: list[int]) -> None:
    asking = asked("chat", 400)
    with interrupted_after(0):
        run_job(asking)
    run_job(asking)
    assert rows()["up"].tolist() == [f"WORD {n}" for n in range(400)]
