"""Waiting for other threads, so that an interrupt, wherever it comes, leaves nobody waiting for ever."""

import queue
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

SOON, WAIT = 0.0001, 0.005  # seconds between the first two looks, and between later ones
LOOK = 0.05  # the same in a pause, which is seconds long


def wait_until(over: Callable[[], bool]) -> None:
    """Where a thread says itself how far it is.

    `Event.wait` takes a lock in Python, as `queue.Queue` does: see BoundedQueue. A `join` that an interrupt breaks off
    takes a thread that goes on for one that has ended:
    https://github.com/python/cpython/issues/90882
    """
    seconds = SOON  # most threads that are told to end do so at once
    while not over():
        time.sleep(seconds)
        seconds = min(2 * seconds, WAIT)


def pause(seconds: float, over: Callable[[], bool]) -> None:
    """As `time.sleep`, but ends soon after `over()`: a signal ends it on the main thread alone."""
    end = time.monotonic() + seconds
    while not over() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, LOOK))


class BoundedQueue(Generic[Item]):
    """At most so many items wait in it; for one thread that puts and one that gets.

    The locks of `queue.Queue` are taken in Python: an exception that a signal raises there leaves them taken for good,
    and everybody waits for ever. What is used here is taken in C, where no signal comes between.
    https://docs.python.org/3/library/queue.html#queue.SimpleQueue
    """

    def __init__(self, size: int) -> None:
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(size):
            self._places.put(None)

    def __len__(self) -> int:
        """What waits, the end counted."""
        return self._items.qsize()

    def put(self, item: Item, timeout: float) -> bool:
        """Whether there was room for it within so many seconds."""
        try:
            self._places.get(timeout=timeout)
        except queue.Empty:
            return False
        self._items.put(item)
        return True

    def end(self) -> None:
        """Nothing more comes. This takes no place: one may have been lost in an interrupt."""
        self._items.put(None)

    def get(self, timeout: float | None = None) -> Item | None:
        """The next item, None after the last one. Raises queue.Empty when there is none within so many seconds."""
        item = self._items.get(timeout=timeout)
        self._places.put(None)
        return item
