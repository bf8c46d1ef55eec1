"""Ctrl-C, SIGTERM and SIGHUP: as an exception, or as a question that work asks between two steps."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Self

from secbatch.errors import EXIT_INTERRUPTED, Interrupted

ASKED_ONCE_SECONDS = 1.0  # a sender that signals a process and then its group (timeout, a service manager) asks once
# SIGHUP: the terminal was closed, or the connection to it lost. Under nohup it is ignored, and stays so.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def other_signals_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP are a Ctrl-C, unless they are ignored: 130 also before a run listens, and where none is."""
    others = [number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL]
    for number in others:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in others:
            signal.signal(number, signal.SIG_DFL)


class _Signals:
    """Inside, the first signal is noted; one that comes later ends the process at once. Use as a context manager."""

    def __init__(self) -> None:
        self._asked: float | None = None  # when, by the monotonic clock

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in STOPPING if not _ignored(number)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked = time.monotonic()
            self._begin_to_stop()
        elif number != signal.SIGHUP and time.monotonic() - self._asked >= ASKED_ONCE_SECONDS:
            # Somebody insists. A shell and the kernel both tell of one lost terminal, however late: that is not it.
            os._exit(EXIT_INTERRUPTED)  # as safe as a kill: what is finished is on disk

    def _begin_to_stop(self) -> None:
        """Called in the main thread, at the first signal."""


def _ignored(number: int) -> bool:
    """What was started to outlive its terminal does. SIGINT, ignored in the background of a shell, is heard there."""
    return number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN


class StopAsked(_Signals):
    """True once a signal has come."""

    def __call__(self) -> bool:
        return self._asked is not None


class Interruptible(_Signals):
    """The signal raises Interrupted in the main thread."""

    def __init__(
        self, text: str = "Interrupted; what is finished is kept, run the same command again to go on"
    ) -> None:
        super().__init__()
        self._text = text

    def _begin_to_stop(self) -> None:
        raise Interrupted(self._text)
