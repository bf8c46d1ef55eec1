"""Ctrl-C and SIGTERM as a question that work asks between two steps, rather than an exception amid one."""

import os
import signal
from types import FrameType

from secbatch.errors import EXIT_INTERRUPTED


class StopAsked:
    """True once a signal has come; a second signal ends the process at once. Use as a context manager."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> "StopAsked":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            os._exit(EXIT_INTERRUPTED)  # as safe as a kill: what is finished is on disk
        self._asked = True
