"""An iterator that works on a thread of its own, a few items ahead of whoever draws from it."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")

WAIT = 0.1  # seconds between two looks at whether the other side has stopped


def read_ahead(items: Iterator[Item], size: int, stopped: Callable[[], bool], name: str) -> Generator[Item, None, None]:
    """`items` in their order, drawn by a thread called `name` that is at most `size` items ahead.

    What `items` raises is raised here, after the items before it. The thread ends with its iterator, or soon after
    this generator is closed or `stopped()` becomes true.
    """
    waiting: queue.Queue[Item | _End] = queue.Queue(size)
    closed = threading.Event()
    failures: list[BaseException] = []

    def put(item: Item | _End) -> bool:
        while not (closed.is_set() or stopped()):
            try:
                waiting.put(item, timeout=WAIT)
                return True
            except queue.Full:
                continue
        return False

    def draw() -> None:
        try:
            for item in items:
                if not put(item):
                    return
                del item  # not held while the next one is made
        except BaseException as failure:  # carried to the other thread, where it is raised
            failures.append(failure)
        put(_End())

    thread = threading.Thread(target=draw, name=name, daemon=True)
    thread.start()
    try:
        while not stopped():
            try:
                item = waiting.get(timeout=WAIT)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                break
            yield item
            del item
        if failures:
            raise failures[0]
    finally:
        closed.set()
        thread.join()


class _End:
    """What follows the last item."""
