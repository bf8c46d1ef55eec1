"""Rows that end the process: the next run finds them, by processes of its own, and does all others."""

import faulthandler
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import forked_trial
import numpy as np
import pandas as pd
import pytest
from fake_task import install
from nights import job, write
from poisonous_task import made

from secbatch import trial
from secbatch.errors import ModelError
from secbatch.poison import PoisonRows
from secbatch.run_options import RunOptions
from secbatch.runner import RunResult, run_job
from secbatch.store.ledger import Ledger
from secbatch.store.row_keys import RowKeys

LINES = [f"{n},word {n}" for n in range(20)]
start_interpreter = trial.start
WITH_ID = {"path": "in/*.csv", "id": ["id"]}


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POISON_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (8,))
    install(monkeypatch)
    monkeypatch.setattr("secbatch.worker.build_task", made)
    monkeypatch.setattr(trial, "start", forked_trial.start)
    return tmp_path


def died(how: int = 0, **changes: Any) -> None:
    """A run in a process of its own, which does not survive it."""
    process = os.fork()
    if not process:
        try:
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run_job(job(input=WITH_ID, **changes))
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code != 0 and (not how or code == how)


def run(**changes: Any) -> RunResult:
    return run_job(job(input=WITH_ID, max_rejects="100%", **changes))


def rejected() -> dict[str, str]:
    rows = pd.read_parquet("out/data").astype({"id": str}).set_index("id")
    assert rows.index.is_unique
    good = rows[rows["secbatch_status"] == "ok"]
    assert (good["up"] == good["text"].str.upper()).all() and rows.loc[
        rows.index.difference(good.index), "up"
    ].isna().all()
    errors: dict[str, str] = rows["secbatch_error"].dropna().to_dict()
    return errors


def processes(place: Path) -> Counter[str]:
    """How many computations each process of the last run began."""
    return Counter(line.split()[0] for line in (place / "log").read_text().splitlines())


def test_in_a_fresh_interpreter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "start", start_interpreter)
    write("a.csv", "id,text", "bad,abort")
    died(-signal.SIGABRT)
    run()
    assert set(rejected()) == {"bad"}


@pytest.mark.parametrize(
    ("text", "code", "how"), [("segfault", -signal.SIGSEGV, "SIGSEGV"), ("leave", 7, "exit code 7")]
)
def test_a_row_that_ends_the_process_is_found_and_left_out(place: Path, text: str, code: int, how: str) -> None:
    write("a.csv", "id,text", *LINES[:9], f"bad,{text}", *LINES[9:])
    died(code)
    (place / "log").unlink()
    result = run()
    assert set(rejected()) == {"bad"} and len(pd.read_parquet("out/data")) == 21
    assert f"ends the process that works on it ({how})" in rejected()["bad"]
    assert (result.rejected, result.rows_in_dataset) == (1, 21)
    assert any("was killed while it worked on some rows" in notice for notice in result.notices)
    assert any(notice.startswith("Row 10 of in/a.csv ends the process") for notice in result.notices)
    assert 3 <= len(processes(place)) <= 7  # one for each death
    assert not Path("out/_secbatch/in_flight").exists()
    # It is known from now on, wherever it stands.
    write("a.csv", "id,text", f"bad,{text}", "new,more", *LINES)
    (place / "log").unlink()
    run()
    assert set(rejected()) == {"bad"} and len(pd.read_parquet("out/data")) == 22
    assert list(processes(place)) == [str(os.getpid())]
    # Until what it says has changed.
    write("a.csv", "id,text", "bad,mended", "new,more", *LINES)
    assert run().enriched == 1 and not rejected()


def test_a_row_that_was_left_out_is_tried_again_when_asked(place: Path) -> None:
    write("a.csv", "id,text", "one,abort", "two,word")
    died(-signal.SIGABRT)
    again = RunOptions(retry=True)
    assert run().rejected == 1
    assert run_job(job(input=WITH_ID, max_rejects="100%"), options=again).rejected == 1  # the cause is still there
    (place / "mended").touch()
    assert run().rejected == 1  # nobody has asked
    assert run_job(job(input=WITH_ID), options=again).rejected == 0
    assert run().rejected == 0 and rejected() == {}


def test_two_rows_of_a_shard_and_new_rows_before_them(place: Path) -> None:
    write("b.csv", "id,text", *LINES[:8], "one,abort", *LINES[8:12], "two,segfault", *LINES[12:])
    died(-signal.SIGABRT)
    write("a.csv", "id,text", *(f"early {n},new {n}" for n in range(5)))  # every shard begins elsewhere now
    run()
    assert set(rejected()) == {"one", "two"} and len(pd.read_parquet("out/data")) == 27


def test_rows_that_do_it_only_together_are_done_apart(place: Path) -> None:
    write("a.csv", "id,text", *LINES[:3], "x,left", *LINES[3:6], "y,right", *LINES[6:])
    died(-signal.SIGABRT)
    run()
    assert rejected() == {} and len(pd.read_parquet("out/data")) == 22


@pytest.mark.parametrize("lines", [LINES, LINES[:1]], ids=["many", "one"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_kills_from_outside_reject_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int, lines: list[str]
) -> None:
    write("a.csv", "id,text", *lines)
    with monkeypatch.context() as patch:
        patch.setattr("poisonous_task.PoisonousTask.compute", lambda self, encoded: os.kill(os.getpid(), number))
        died(-number)
    # The trial is hit, too, again and again: then the run gives up rather than blame a row.
    start, kills = trial.start, 2

    def hit() -> Any:
        nonlocal kills
        process, connection = start()
        send = connection.send

        def then_killed(work: object) -> None:
            nonlocal kills
            send(work)
            if kills:
                kills -= 1
                os.kill(process.pid, number)  # type: ignore[attr-defined]

        connection.send = then_killed  # type: ignore[method-assign]
        return process, connection

    monkeypatch.setattr(trial, "start", hit)
    assert run().rejected == 0 and rejected() == {} and len(pd.read_parquet("out/data")) == len(lines)


def test_a_row_that_ends_one_process_and_not_the_next_is_no_poison(place: Path) -> None:
    write("a.csv", "id,text", "one,twice")
    died(-signal.SIGABRT)
    assert run().rejected == 0 and rejected() == {} and (place / "deaths").read_text() == "xxx"


def test_memory_running_out_counts_where_the_kernel_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "id,text", "0,small", "big,memory")
    died(-signal.SIGKILL)
    with pytest.raises(ModelError, match=r"Row 2 of in/a.csv: .* was killed from outside 3 times \(SIGKILL\)"):
        run()
    counts = iter(range(1000))
    monkeypatch.setattr(trial, "out_of_memory_kills", lambda: next(counts))
    run()
    assert "(out of memory)" in rejected()["big"]


def test_a_machine_that_went_down_explains_the_death(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "id,text", *LINES)
    with monkeypatch.context() as patch:
        patch.setattr(
            "poisonous_task.PoisonousTask.compute", lambda self, encoded: os.kill(os.getpid(), signal.SIGKILL)
        )
        died(-signal.SIGKILL)
    (place / "boot").write_text("another boot\n")
    monkeypatch.setattr("secbatch.store.in_flight.BOOT", place / "boot")
    result = run()
    assert list(processes(place)) == [str(os.getpid())] and not result.rejected
    assert not any("killed" in notice for notice in result.notices)


def test_a_turn_that_ends_the_process_leaves_its_conversation_the_others(place: Path) -> None:
    turns = ["hello", "and now", "segfault", "after it", "good bye"]
    rows = [f"{name}{n},{name},{text}" for name in "abc" for n, text in enumerate(turns if name == "b" else turns[:2])]
    write("a.csv", "id,thread,text", *rows)
    tasks = {"up": {"type": "fill-mask", "model": "fake", "text": "text", "top_k": 7}}
    died(-signal.SIGSEGV, tasks=tasks)
    run(tasks=tasks)
    assert set(rejected()) == {"b2"} and len(pd.read_parquet("out/data")) == 9


def test_two_turns_of_a_conversation_that_end_the_process(place: Path) -> None:
    turns = ["hello", "segfault", "after it", "abort", "good bye"]
    write("a.csv", "id,thread,text", *(f"{n},a,{text}" for n, text in enumerate(turns)))
    tasks = {"up": {"type": "fill-mask", "model": "fake", "text": "text", "top_k": 7}}
    died(-signal.SIGSEGV, tasks=tasks)
    run(tasks=tasks)
    assert set(rejected()) == {"1", "3"} and len(pd.read_parquet("out/data")) == 5
    (place / "log").unlink()
    assert run(tasks=tasks).enriched == 0 and not (place / "log").exists()


def test_a_model_that_dies_of_itself_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "id,text", *LINES, "bad,segfault")
    died(-signal.SIGSEGV)
    command = [sys.executable, "-c", "import os; os.abort()"]

    def start() -> Any:
        from multiprocessing.connection import Pipe

        ours, theirs = Pipe()
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
        theirs.close()
        return process, ours

    monkeypatch.setattr(trial, "start", start)
    with pytest.raises(ModelError, match="dies before the first row"):
        run()
    assert Path("out/_secbatch/in_flight/suspects").exists()  # for the next run


def test_a_message_that_ends_in_its_middle_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut() -> Connection:
        here, there = Pipe()
        os.write(there.fileno(), struct.pack("!i", 1000) + b"the beginning of it")
        there.close()
        return here

    class Killed:
        def wait(self) -> int:
            return -signal.SIGKILL

        def kill(self) -> None: ...

    tried = trial.Trial(None, "cpu", "float32")  # type: ignore[arg-type]
    tried._running = (Killed(), cut())
    assert tried.run(None, lambda: None) == trial.Death("SIGKILL", True)  # type: ignore[arg-type]
    monkeypatch.setattr(trial.resource, "setrlimit", lambda *limits: None)
    trial.serve(cut())  # and the other way round: the run is gone, there is nothing to say


def test_a_row_that_a_task_refuses_is_rejected_as_ever(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "id,text", *LINES, "bad,poison")
    with monkeypatch.context() as patch:
        patch.setattr("poisonous_task.PoisonousTask.compute", lambda self, encoded: os._exit(9))
        died(9)
    result = run()
    assert result.rejected == 1
    assert pd.read_parquet("out/data")["secbatch_error"].dropna().tolist() == ["Task up: this row cannot be done."]


def test_a_row_is_poison_only_by_all_that_its_tasks_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    one, other, nothing = [1, 2], [3, 4], [0, 0]
    done = {
        "mask": np.array([one, one, other, nothing, one], np.uint64),
        "answer": np.array([nothing, [5, 6], nothing, nothing, nothing], np.uint64),
    }
    ids = np.arange(10, dtype=np.uint64).reshape(5, 2)
    keys = RowKeys(ids, ids, ids[:, 0], np.zeros(5, np.uint8), done)
    poison = PoisonRows(ledger, retry=False)
    assert not poison.errors(keys)
    poison.add(keys.take(np.array([0])), "SIGSEGV")
    for known in (poison, PoisonRows(ledger, retry=False)):  # the next run knows it, too
        assert set(known.errors(keys)) == {0, 4}
    again = PoisonRows(ledger, retry=True)
    assert not again.errors(keys) and set(again.tried_again.tolist()) == {0, 1}
    again.passed(keys.take(np.array([0])))
    assert not PoisonRows(ledger, retry=False).errors(keys)
