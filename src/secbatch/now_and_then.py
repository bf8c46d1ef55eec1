"""Something that is done again and again while other work goes on."""

import queue
import threading
from collections.abc import Callable

from secbatch.waiting import wait_until


class NowAndThen:
    """Calls `action()` from a thread of its own, until it is left. Use as a context manager.

    What the action raises ends the calls, and is raised where this is left without another failure.
    """

    def __init__(self, action: Callable[[], None], seconds: float, name: str) -> None:
        """`seconds` go by before each call."""
        self._action, self._seconds = action, seconds
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()  # no Event: see secbatch.waiting
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._go_on, name=name, daemon=True)

    def __enter__(self) -> "NowAndThen":
        try:
            self._thread.start()
        except BaseException:  # an interrupt, when the thread may be on its way
            self._end.put(None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end.put(None)
        wait_until(lambda: self._ended)
        self._thread.join()
        if self._failure and kind is None:
            raise self._failure

    def _go_on(self) -> None:
        try:
            while True:
                try:
                    self._end.get(timeout=self._seconds)
                    return
                except queue.Empty:
                    self._action()
        except BaseException as failure:
            self._failure = failure
        finally:
            self._ended = True
