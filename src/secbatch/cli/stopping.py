"""Ctrl-C and SIGTERM: as an exception, or as a question that work asks between two steps."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Self

from secbatch.errors import EXIT_INTERRUPTED, Interrupted


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM is a Ctrl-C, unless it is ignored: 130 also before a run listens, and where none is."""
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Signals:
    """Inside, the first signal is noted; a second one ends the process at once. Use as a context manager."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            os._exit(EXIT_INTERRUPTED)  # as safe as a kill: what is finished is on disk
        self._asked = True


class StopAsked(_Signals):
    """True once a signal has come."""

    def __call__(self) -> bool:
        return self._asked


class Interruptible(_Signals):
    """The signal raises Interrupted in the main thread."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        raise Interrupted("Interrupted; what is finished is kept, run the same command again to go on")
