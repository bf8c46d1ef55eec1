"""Another process of Python with the packages of this one, and how it has ended."""

import os
import signal
import sys


def arguments(code: str) -> list[str]:
    """A command that runs `code`. The working folder is nothing to it: a `json.py` there is somebody's own."""
    return [sys.executable, "-P", "-c", code]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def ending(code: int) -> str:
    """Of an exit code, negative for a signal: `SIGSEGV`, `exit code 1`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
