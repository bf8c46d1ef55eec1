"""`secbatch status`: a run in progress, one that was killed, one that ended."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_task import Counter, UpperTask, install

from secbatch.cli.main import _run
from secbatch.errors import Interrupted, OutputError, OutputHeldError
from secbatch.store.ledger import Ledger
from secbatch.store.lock import hold, holder
from secbatch.store.progress import ProgressFile

LOCK = Path("out/_secbatch/lock")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    job = "name: night\ninput: {path: in.csv}\ntasks: {up: {type: fill-mask, model: fake, text: text}}\n"
    Path("job.yaml").write_text(job + "output: {path: out}\n")
    Path("in.csv").write_text("text\na\nb\nPOISON\n")
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (1,))
    return install(monkeypatch)


def status(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = _run(["status", "out", "--json"])
    machine = json.loads(capsys.readouterr().out)
    assert _run(["status", "out"]) == code == machine["exit_code"]
    return code, machine, capsys.readouterr().out


def test_while_a_run_goes_on_and_after_it(
    counter: Counter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secbatch.store.progress.INTERVAL_SECONDS", 0.01)
    compute = UpperTask.compute
    seen: list[tuple[int, dict[str, Any], str]] = []

    def looks(self: UpperTask, encoded: Any) -> Any:
        if self.counter.rows == 2:
            deadline = time.monotonic() + 30
            while not (seen and seen[-1][1]["progress"]["enriched"] == 2) and time.monotonic() < deadline:
                time.sleep(0.02)
                seen.append(status(capsys))
        return compute(self, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(UpperTask, "compute", looks)
        assert _run(["run", "job.yaml"]) == 3
    code, machine, text = seen[-1]
    assert (code, machine["state"], machine["holder"]["process"]) == (75, "running", os.getpid())
    assert datetime.fromisoformat(machine["holder"]["since"]).utcoffset() == timedelta(0)  # as all times of a run
    progress = machine["progress"]
    assert progress["read"] >= 2 and progress["rows_per_second"] > 0 and "device" in progress["doing"]
    assert f"running: process {os.getpid()} on" in text and "rows/s" in text and "Doing" in text
    code, machine, text = status(capsys)
    assert (code, machine["state"], machine["progress"]) == (3, "finished", None)
    assert machine["last"]["counts"]["rejected"] == 1
    assert "finished, exit code 3" in text and "3 read · 3 enriched · 0 reused · 1 rejected" in text


def test_a_run_that_was_killed(
    counter: Counter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if not child:
        monkeypatch.setattr("secbatch.store.progress.INTERVAL_SECONDS", 0.01)

        def killed(self: UpperTask, encoded: Any) -> Any:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(UpperTask, "compute", killed)
        _run(["run", "job.yaml"])
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    code, machine, text = status(capsys)
    assert (code, machine["state"], machine["holder"]) == (1, "died", None)
    assert "run the job again" in text and machine["progress"]["run"] in text
    assert _run(["run", "job.yaml"]) == 3
    assert status(capsys)[1]["state"] == "finished"


@pytest.mark.parametrize(("failure", "state", "ends"), [(OutputError, "failed", 1), (Interrupted, "interrupted", 130)])
def test_a_run_whose_record_could_not_be_written(
    failure: type[Exception],
    state: str,
    ends: int,
    counter: Counter,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _run(["run", "job.yaml"]) == 3

    def full(*_: Any) -> None:
        raise OutputError("The disk is full")

    def stopped(self: UpperTask, encoded: Any) -> Any:
        raise failure("stop")

    Path("in.csv").write_text("text\na\nb\nPOISON\nnew\n")
    with monkeypatch.context() as patch:
        patch.setattr(UpperTask, "compute", stopped)
        patch.setattr("secbatch.running.write_run_file", full)
        assert _run(["run", "job.yaml"]) == ends
    code, machine, text = status(capsys)
    assert (code, machine["state"], machine["last"]["exit_code"]) == (ends, state, 3)
    assert "could not be written" in text and machine["progress"]["run"] in text
    assert _run(["run", "job.yaml"]) == 3
    assert status(capsys)[1]["state"] == "finished"


def test_a_run_that_was_killed_is_the_last_one_also_where_the_clock_was_turned_back(
    counter: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["run", "job.yaml"]) == 3
    latest = Path("out/_secbatch/runs/latest.json")
    record = json.loads(latest.read_text())
    latest.write_text(json.dumps(record | {"started": "2099-01-01T00:00:00+00:00"}))
    with closing(Ledger(Path("out/_secbatch/ledger.sqlite"))) as ledger:
        ledger.start_run("20260101T000000000Z-aaaaaa", "{}", "2026-01-01T00:00:00+00:00")
    code, machine, _ = status(capsys)
    assert (code, machine["state"]) == (1, "died")
    # One that failed before its work is not in the ledger, and came after it.
    failed = {"run": "20260102T000000000Z-bbbbbb", "state": "failed", "exit_code": 2}
    latest.write_text(json.dumps(record | failed | {"started": "2026-01-02T00:00:00+00:00"}))
    assert status(capsys)[1]["state"] == "failed"


def test_a_run_that_was_interrupted_as_soon_as_the_ledger_had_it(
    counter: Counter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(["run", "job.yaml", "--set", "max_rejects=100%"]) == 0
    start_run = Ledger.start_run

    def interrupted(self: Ledger, run: str, job: str, started: str) -> None:
        start_run(self, run, job, started)
        raise Interrupted("stop")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "start_run", interrupted)
        assert _run(["run", "job.yaml", "--set", "max_rejects=100%"]) == 130
    code, machine, text = status(capsys)
    assert (code, machine["state"]) == (130, "interrupted") and "interrupted" in text


def test_other_ends(counter: Counter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(["status", "out"]) == 2
    assert "holds no output of secbatch" in capsys.readouterr().err
    Path("out/_secbatch").mkdir(parents=True)  # as by a run that was killed at once
    code, machine, text = status(capsys)
    assert (code, machine["state"]) == (0, "none") and "no run has left a record" in text

    def stopped(self: UpperTask, encoded: Any) -> Any:
        raise Interrupted("stop")

    with monkeypatch.context() as patch:
        patch.setattr(UpperTask, "compute", stopped)
        assert _run(["run", "job.yaml"]) == 130
    code, machine, text = status(capsys)
    assert (code, machine["state"]) == (130, "interrupted") and "stop" in text
    Path("in.csv").rename("gone.csv")
    assert _run(["run", "job.yaml"]) == 2
    with hold(LOCK):
        code, machine, text = status(capsys)
        assert (code, machine["progress"]) == (75, None) and "looking at models and input" in text
    latest = Path("out/_secbatch/runs/latest.json")
    for text, said in {"{": "cannot be read", "[" * 100_000: "cannot be read", '{"run": "x"}': "no record of"}.items():
        latest.write_text(text)
        assert _run(["status", "out"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("counts", {"read": 3}, "counts.enriched"),
        ("counts", None, "counts"),
        ("output", [], "output"),
        ("exit_code", "x", "exit_code"),
        ("started", 5, "started"),
        ("seconds", "long", "seconds"),
    ],
)
def test_a_record_that_was_changed(
    key: str, value: object, place: str, counter: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["run", "job.yaml"]) == 3
    latest = Path("out/_secbatch/runs/latest.json")
    latest.write_text(json.dumps(json.loads(latest.read_text()) | {key: value}))
    capsys.readouterr()
    assert _run(["status", "out"]) == 2
    assert f"latest.json' is no record of a run ({place} is not as written); run" in capsys.readouterr().err


@pytest.mark.parametrize("models", [5, [], "x", {"up": None}, {"up": {}}, {"up": {"model": 5}}, {"up": ["model"]}])
def test_models_of_a_record_that_was_changed(
    models: object, counter: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["run", "job.yaml"]) == 3
    for file in Path("out/_secbatch/runs").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"models": models}))
    assert _run(["show", "out", "--models", "--rows", "1"]) == 0
    assert "has left no record" in capsys.readouterr().out


def test_a_record_that_may_not_be_read_is_no_reason_to_run_again(
    counter: Counter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(["run", "job.yaml"]) == 3
    read = Path.read_text

    def refused(path: Path, *args: Any, **options: Any) -> str:
        if path.name == "latest.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    capsys.readouterr()
    assert _run(["status", "out"]) == 2
    said = capsys.readouterr().err
    assert said == "Error: 'out/_secbatch/runs/latest.json' may not be read (Permission denied); mend its rights.\n"


def test_who_looks_leaves_no_file_for_the_next_run(counter: Counter, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", "job.yaml"]) == 3
    inside = LOCK.parent
    before = {path: path.stat().st_mtime_ns for path in inside.rglob("*")}
    inside.chmod(0o555)  # for who is not root: it can be looked at all the same
    try:
        for command in (["status", "out"], ["versions", "out"], ["plan", "job.yaml"]):
            assert _run(command) == (3 if "status" in command else 0)
    finally:
        inside.chmod(0o755)
    # A log of the ledger that another user has made would be in the run's way.
    assert {path: path.stat().st_mtime_ns for path in inside.rglob("*")} == before
    (inside / "ledger.sqlite").write_bytes(b"not a database" * 100)
    assert _run(["versions", "out"]) == 1
    assert "the next run makes a new one" in capsys.readouterr().err


def test_who_looks_keeps_nobody_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert holder(Path("lock")) is None
    look = "from pathlib import Path; from secbatch.store.lock import holder\nwhile True: holder(Path('lock'))"
    Path("lock").touch()
    lookers = [subprocess.Popen([sys.executable, "-c", look]) for _ in range(2)]
    try:
        time.sleep(1)
        for _ in range(200):
            with hold(Path("lock")):
                assert holder(Path("lock")) is not None
    finally:
        for looker in lookers:
            looker.kill()
            looker.wait()


def test_a_run_that_is_suspended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "out" / "_secbatch" / "lock"
    held = "import sys, time; from pathlib import Path; from secbatch.store.lock import hold\n"
    held += "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", held, str(lock)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        try:
            assert "suspended" not in (holder(lock) or {})
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            assert (holder(lock) or {})["suspended"]
            assert _run(["status", str(tmp_path / "out")]) == 75
            assert f"suspended: process {process.pid}" in capsys.readouterr().out
        finally:
            process.kill()


@pytest.mark.parametrize("note", ["", '{"process": 1', "5"])
def test_a_run_that_has_not_said_yet_who_it_is(note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "out" / "_secbatch" / "lock"
    with hold(lock):
        lock.write_text(note)
        assert _run(["status", str(tmp_path / "out")]) == 75
        assert "running; it has just started" in capsys.readouterr().out
        with pytest.raises(OutputHeldError, match=r"\(it has just started\)"), hold(lock):
            pass


def test_a_disk_that_refuses_the_progress_file_costs_the_run_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with ProgressFile(tmp_path / "absent" / "progress.json", dict, said.append):
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(said) == 1 and "cannot be written" in said[0]
