"""Calls that run side by side on a few threads, and whose results are taken one after another, in order."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class InOrder(Generic[Made]):
    """Use as a context manager. `give` and `finish` are for one thread, on which results are taken."""

    def __init__(self, threads: int) -> None:
        """At most so many calls run at a time, and hold what they work on."""
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "write")
        self._waiting: deque[tuple[Future[Made], Callable[[Made], None]]] = deque()

    def __enter__(self) -> "InOrder[Made]":
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def give(self, make: Callable[[], Made], take: Callable[[Made], None]) -> None:
        """`take(make())`, sooner or later, after what was given before; raises what they raise."""
        self.take_what_is_there()
        while len(self._waiting) >= self._threads:
            self._take_first()
        self._waiting.append((self._pool.submit(make), take))

    def take_what_is_there(self) -> None:
        """To be called now and then, so that nothing that is made waits for what comes next."""
        while self._waiting and self._waiting[0][0].done():
            self._take_first()

    def finish(self) -> None:
        """Returns when all is taken."""
        while self._waiting:
            self._take_first()

    def _take_first(self) -> None:
        made, take = self._waiting.popleft()
        take(made.result())
