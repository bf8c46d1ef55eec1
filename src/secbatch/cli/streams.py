"""Standard streams that a run can rely on: descriptors that are open, and a standard error that fails nobody."""

import io
import os
import sys
from typing import Any, TextIO


def hold_streams() -> None:
    """Before anything else is opened.

    A descriptor of the three that is closed (`2>&-`, some schedulers) would be given to the next file that is opened,
    and what a library writes to standard error would stand in that file: it leads to /dev/null instead. What cannot be
    written to standard error (the disk of the log is full, `tee` was killed) is lost, the run is not.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale that is not UTF-8 has no bytes for most of what texts hold
        sys.stdout.reconfigure(errors="backslashreplace")
    errors = sys.stderr
    if errors is None or errors.fileno() == 2:
        sys.stderr = unfailing(2, (errors and errors.encoding) or "utf-8")


def unfailing(descriptor: int, encoding: str = "utf-8") -> TextIO:
    """A stream of lines to a descriptor, which stays open with it; what cannot be written is dropped."""
    raw = io.BufferedWriter(_Unfailing(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True, write_through=True)


class _Unfailing(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(memoryview(data).cast("B")) if written is None else written
