"""What a run of another job has left behind stays what it is while this one writes, also where this one is killed."""

from pathlib import Path

import pytest
from fake_task import Counter, install_in
from nights import LINES, WITH_ID, job, rows, write

from secbatch.job import Job
from secbatch.run_options import RunOptions
from secbatch.runner import run_job
from secbatch.store import faults
from secbatch.store.ledger import Checkpoint, Ledger


class Killed(BaseException):
    """Nothing of the run comes after it."""


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (7, 10))


def killed_after_a_checkpoint(monkeypatch: pytest.MonkeyPatch, of: Job) -> None:
    add = Ledger.add_checkpoint

    def added_and_killed(self: Ledger, done: Checkpoint) -> None:
        add(self, done)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add_checkpoint", added_and_killed)
        with pytest.raises(Killed):
            run_job(of)


def killed_at(point: str, of: Job, options: RunOptions | None = None) -> None:
    def visit(reached: str) -> None:
        if reached == point:
            raise Killed

    faults.install(visit)
    try:
        with pytest.raises(Killed):
            run_job(of, options=options)
    finally:
        faults.install()


def check_rows(*texts: str) -> None:
    """The dataset has these rows, each with its own result."""
    found = rows()
    assert sorted(found["text"]) == sorted(texts)
    done = found["secbatch_status"] == "ok"
    assert (found["up"][done] == found["text"].str.upper()[done]).all()
    assert found["text"][~done].tolist() == [text for text in texts if text == "poison"]


@pytest.mark.parametrize("second", ["incremental", "retry"])
def test_a_run_that_is_killed_between_the_files_of_a_checkpoint(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """It has other rows of the shard to write than the killed run before it: keys of its own beside columns of those.

    An overwriting run writes the rows that an incremental one leaves where they are, a retry the rejected ones.
    """
    lines = ["r,poison,", *LINES[:29]]
    write("a.csv", "id,text,note", *lines[:5])
    run_job(job(input=WITH_ID, max_rejects=1))
    write("a.csv", "id,text,note", *lines)
    retry = second == "retry"
    first = {} if retry else {"output": {"path": "out", "mode": "overwrite"}}
    killed_after_a_checkpoint(monkeypatch, job(input=WITH_ID, max_rejects=1, **first))
    options = RunOptions(retry=retry)
    killed_at("checkpoint: before the write", job(input=WITH_ID, max_rejects=1), options)
    run_job(job(input=WITH_ID, max_rejects=1), options=options)
    check_rows(*(line.split(",")[1] for line in lines))


def test_a_text_that_comes_again_after_its_first_shard_was_written(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result is looked up in the killed run's checkpoint while this run writes one of the same shard."""
    lines = [*LINES[:60], "again,word 6,"]
    write("a.csv", "id,text,note", *LINES[:5])
    run_job(job(input=WITH_ID))
    write("a.csv", "id,text,note", *lines)
    killed_after_a_checkpoint(monkeypatch, job(input=WITH_ID, output={"path": "out", "mode": "overwrite"}))
    run_job(job(input=WITH_ID))
    check_rows(*(line.split(",")[1] for line in lines))
