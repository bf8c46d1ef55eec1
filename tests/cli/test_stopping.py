"""Signals that come before a run listens to them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
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
