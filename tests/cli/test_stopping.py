"""Signals that come before a run listens to them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fake_task import install

from secbatch.cli.main import main
from secbatch.cli.stopping import ASKED_ONCE_SECONDS
from secbatch.errors import EXIT_INTERRUPTED, Interrupted

AS_CLICK_IS_IMPORTED = """
import os, signal, sys

class Sender:
    @staticmethod
    def find_spec(name, *rest):
        if name == "click":
            os.kill(os.getpid(), signal.{name})

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background is started without
sys.meta_path.insert(0, Sender)
from secbatch.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_amid_the_first_imports_are_interrupts(name: str) -> None:
    command = [sys.executable, "-c", AS_CLICK_IS_IMPORTED.format(name=name), "--version"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


def test_sigterm_before_the_job_is_read_is_an_interrupt(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.yaml")  # whoever reads it waits
    command = [sys.executable, "-m", "secbatch", "run", str(tmp_path / "job.yaml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    writer = None
    while writer is None and process.poll() is None and time.monotonic() < until:
        try:
            writer = os.open(tmp_path / "job.yaml", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert writer is not None and (process.returncode, errors.split()) == (130, ["Interrupted."])
    os.close(writer)


UNDERWAY = """
import sys, time
from secbatch.cli.stopping import Interruptible
from secbatch.errors import Interrupted

with Interruptible():
    try:
        print("at work", flush=True)
        time.sleep(60)
    except Interrupted:
        time.sleep({seconds})  # what is computed is written
        print("written", flush=True)
        sys.exit(130)
"""


def underway(seconds: float, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", UNDERWAY.format(seconds=seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **settings)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_that_come_together_ask_once(name: str) -> None:
    process = underway(ASKED_ONCE_SECONDS / 2)
    for _ in range(3):  # `timeout` tells the process and its group; a shell and the kernel, of a lost terminal
        process.send_signal(getattr(signal, name))
        time.sleep(0.05)
    assert process.communicate(timeout=60)[0] == "written\n"
    assert process.returncode == 130


@pytest.mark.parametrize(("name", "written"), [("SIGTERM", ""), ("SIGINT", ""), ("SIGHUP", "written\n")])
def test_who_asks_again_later_insists(name: str, written: str) -> None:
    process = underway(ASKED_ONCE_SECONDS * 2)
    process.send_signal(signal.SIGHUP)
    time.sleep(ASKED_ONCE_SECONDS + 0.2)
    process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=60)[0] == written
    assert process.returncode == 130


@pytest.mark.parametrize("ignored", ["SIGHUP", "SIGTERM"])
def test_what_is_ignored_stays_ignored(ignored: str) -> None:
    number = getattr(signal, ignored)
    process = underway(0, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))  # nohup
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "written\n"


def fake_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`job.yaml` in `folder`, which is the working folder now, with a task that needs no model."""
    install(monkeypatch)
    monkeypatch.chdir(folder)
    Path("in.csv").write_text("text\na word\n")
    Path("job.yaml").write_text(
        "{name: a, input: {path: in.csv}, output: {path: out}, tasks: {up: {type: fill-mask, model: fake, text: text}}}"
    )


@pytest.mark.parametrize("where", ["secbatch.cli.run.check_threads", "secbatch.engines.local.LocalEngine.run"])
def test_an_interrupt_amid_the_start_of_a_thread_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    fake_job(tmp_path, monkeypatch)

    def interrupted(*arguments: Any) -> None:
        def start(*arguments: Any) -> None:
            begin(*arguments)
            assert started.wait(10)  # the thread is there, and `Thread.start` has not returned
            raise Interrupted("stop")

        begin, started = threading._start_new_thread, threading.Event()
        monkeypatch.setattr(threading, "_start_new_thread", start)
        try:
            threading.Thread(target=started.set).start()
        finally:
            monkeypatch.setattr(threading, "_start_new_thread", begin)

    monkeypatch.setattr(where, interrupted)
    with pytest.raises(SystemExit) as end:
        main(["run", "job.yaml"])
    assert end.value.code == EXIT_INTERRUPTED
    assert capfd.readouterr().err.endswith("stop.\n")
    if Path("out").exists():
        record = json.loads(Path("out/_secbatch/runs/latest.json").read_text())
        assert (record["state"], record["exit_code"], record["error"]) == ("interrupted", EXIT_INTERRUPTED, "stop")


@pytest.mark.parametrize("arguments", [["plan"], ["run", "--dry-run"]])
def test_a_plan_that_is_interrupted_speaks_of_nothing_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    fake_job(tmp_path, monkeypatch)
    monkeypatch.setattr("secbatch.planning.plan_job", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as end:
        main([*arguments, "job.yaml"])
    assert (end.value.code, capfd.readouterr().err) == (EXIT_INTERRUPTED, "Interrupted.\n")
