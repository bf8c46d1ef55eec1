"""How long each stage of a run took, and what it is doing at this moment."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

# In the order of work. They overlap, each on its own thread, so they need not add up to the run's duration.
STAGES = ("read", "identify", "load", "encode", "device", "finish", "checkpoint", "publish")


class StageClock:
    """Adds up seconds for each stage, from any thread."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._active: list[tuple[str, float]] = []  # stage, monotonic time of its start

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        entry = (stage, time.monotonic())
        with self._mutex:
            self._active.append(entry)
        try:
            yield
        finally:
            with self._mutex:
                self._active.remove(entry)
                self._seconds[stage] += time.monotonic() - entry[1]

    def each(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """`items`, with the time it takes to get each of them on the clock."""
        end = object()
        while True:
            with self(stage):
                item = next(items, end)
            if item is end:
                return
            yield item  # type: ignore[misc]
            del item

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, what is going on included."""
        now = time.monotonic()
        with self._mutex:
            total = dict(self._seconds)
            for stage, begin in self._active:
                total[stage] += now - begin
        return total

    def doing(self) -> list[str]:
        """The stages at work at this moment, in the order of work."""
        with self._mutex:
            active = {stage for stage, _ in self._active}
        return [stage for stage in STAGES if stage in active]
