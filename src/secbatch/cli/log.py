"""Standard error for machines: one JSON object a line, whatever is written there."""

import contextlib
import io
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from secbatch.cli.streams import unfailing
from secbatch.cli.terminal import printable
from secbatch.redaction import redacted_values

_mutex = threading.Lock()
_real: TextIO | None = None  # standard error itself, while other writing to it is turned into events


def asked_for(arguments: Sequence[str]) -> bool:
    """Whether `--log-format json` stands in a command line, also in one that does not parse."""
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    return any(word == "--log-format=json" or (word == "--log-format" and after == "json") for word, after in pairs)


def active() -> bool:
    return _real is not None


def emit(event: str, level: str = "info", **fields: Any) -> None:
    """Writes one event: `time` (ISO 8601, UTC), `level` (info, warning, error), `event`, and what it tells."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    # ASCII only: what data hold must neither break the encoding of a log nor reach a terminal that shows it.
    line = json.dumps(
        {"time": moment, "level": level, "event": event, **redacted_values(fields)}, ensure_ascii=True, default=str
    )
    with _mutex:
        stream = _real or sys.stderr
        stream.write(line + "\n")
        stream.flush()


@contextlib.contextmanager
def json_lines() -> Iterator[None]:
    """Turns all that libraries write to standard error into events, native code's lines included."""
    global _real
    before, show = sys.stderr, warnings.showwarning
    lines, own = _Lines(), _is_descriptor_2(before)
    _real = unfailing(os.dup(2)) if own else before
    try:
        with _piped_descriptor_2() if own else contextlib.nullcontext():
            sys.stderr = lines
            warnings.showwarning = _show_warning
            try:
                yield
            finally:
                lines.finish()
                sys.stderr, warnings.showwarning = before, show
    finally:
        # Not before the pipe is at its end: a line written to standard error would go through the pipe once more.
        with _mutex:
            kept, _real = _real, None
            if own:
                os.close(kept.fileno())


class _Lines(io.TextIOBase):
    """Takes the place of sys.stderr: each line becomes an event."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._rest = ""
        self._lines_mutex = threading.Lock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def write(self, text: str) -> int:
        with self._lines_mutex:
            *whole, self._rest = re.split(r"[\r\n]", self._rest + text)
        for line in whole:
            _message(line)
        return len(text)

    def finish(self) -> None:
        _message(self._rest)
        self._rest = ""


def _message(line: str) -> None:
    if line.strip():
        emit("message", "warning", text=printable(line.rstrip()))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    emit("message", "warning", text=printable(f"{category.__name__}: {message}"))


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError, AttributeError):  # a stand-in without a descriptor
        return False


@contextlib.contextmanager
def _piped_descriptor_2() -> Iterator[None]:
    """Descriptor 2 as a pipe whose lines become events."""
    kept = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    pump = threading.Thread(target=_pump, args=(reader,), name="stderr", daemon=True)
    pump.start()
    try:
        yield
    finally:
        os.dup2(kept, 2)  # closes the pipe's end: the pump comes to its own
        os.close(kept)
        pump.join(timeout=1.0)  # no longer: a child process may hold the pipe open


def _pump(reader: int) -> None:
    with os.fdopen(reader, encoding="utf-8", errors="backslashreplace") as pipe:
        for line in pipe:
            _message(line)
