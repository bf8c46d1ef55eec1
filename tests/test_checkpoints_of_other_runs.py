"""What a run of another job has left behind stays what it is while this one writes, also where this one is killed."""

from pathlib import Path

import pytest
from fake_task import Counter, install_in, interrupted_after
from nights import LINES, WITH_ID, job, rows, write

from secbatch.job import Job
from secbatch.run_options import RunOptions
from secbatch.runner import run_job
from secbatch.store import faults
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Checkpoint


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


def left() -> int:
    return len(list(Path("out/_secbatch/checkpoints").glob("*.parquet")))


OTHERS = {
    "a look": {"limit": 5},
    "another input": {"input": {**WITH_ID, "path": "other/*.csv"}},
    "another job": {"input": {**WITH_ID, "path": "other/*.csv"}, "name": "other"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_of_another_job_leaves_what_an_interrupted_one_has_done(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    write("a.csv", "id,text,note", *LINES[:5])
    run_job(job(input=WITH_ID))
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(counter.rows + 50):
        run_job(job(input=WITH_ID))
    checkpointed, before = left(), counter.rows
    assert checkpointed >= 3
    Path("other").mkdir()
    Path("other/b.csv").write_text("id,text,note\nx,other,\n")
    changes = dict(OTHERS[other])
    limit = changes.pop("limit", None)
    run_job(job(**{"input": WITH_ID, **changes}), options=RunOptions(limit, partial=other == "another input"))
    assert left() == checkpointed
    assert counter.rows - before <= 1
    before = counter.rows
    run_job(job(input=WITH_ID))
    assert counter.rows - before <= 100 - 50 and left() == 0
    check_rows(*(line.split(",")[1] for line in LINES), *(["other"] if "another" in other else []))


@pytest.mark.parametrize("second", ["another task", "overwrite", "many looks"])
def test_what_nobody_comes_back_for_goes(counter: Counter, monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(50):
        run_job(job(input=WITH_ID))
    assert left() >= 3
    if second == "another task":  # all that it has left was looked up
        run_job(job(input=WITH_ID, tasks__up={"type": "fill-mask", "model": "fake", "text": "note"}))
    elif second == "overwrite":
        run_job(job(input=WITH_ID, output={"path": "out", "mode": "overwrite"}), limit=5)
    else:
        monkeypatch.setattr("secbatch.publishing.LEFT_FOR_RUNS", 3)
        for number in range(3):
            run_job(job(input=WITH_ID), limit=1 + number)
            assert (left() > 0) == (number < 2)
    assert left() == 0


def test_rows_that_are_dropped_go_from_there_too(counter: Counter) -> None:
    drops = job(input=WITH_ID, output__removed="drop")
    write("a.csv", "id,text,note", *LINES[:5])
    run_job(drops)
    write("b.csv", "id,text,note", *LINES[5:])
    with interrupted_after(counter.rows + 50):
        run_job(job(input={**WITH_ID, "path": "in/b.csv"}, output__removed="drop"), options=RunOptions(partial=True))
    assert left() >= 3
    Path("in/b.csv").unlink()
    run_job(drops, limit=3)
    assert left() >= 3
    run_job(drops)
    assert left() == 0
    check_rows(*(line.split(",")[1] for line in LINES[:5]))
