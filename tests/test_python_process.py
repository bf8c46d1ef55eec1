"""Processes of Python beside a run have its packages, and none of the working folder."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secbatch import python_process


def test_files_of_the_working_folder_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a json.py of somebody')\n")
    monkeypatch.setattr(sys, "path", ["", *filter(None, sys.path)])  # as `python -c` has it
    code = "import json, secbatch.trial; print(json.dumps(1))"
    done = subprocess.run(
        python_process.arguments(code),
        env=python_process.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


def test_how_a_process_has_ended() -> None:
    assert [python_process.ending(code) for code in (0, 7, -signal.SIGSEGV, -250)] == [
        "exit code 0",
        "exit code 7",
        "SIGSEGV",
        "signal 250",
    ]
