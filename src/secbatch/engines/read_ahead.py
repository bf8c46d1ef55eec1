"""An iterator that works on a thread of its own, a few items ahead of whoever draws from it."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from secbatch.waiting import wait_until

Item = TypeVar("Item")

WAIT = 0.1  # seconds between two looks at whether the other side has stopped


def read_ahead(
    items: Iterator[Item],
    size: int,
    stopped: Callable[[], bool],
    name: str,
    wanted: Callable[[int], bool] = lambda number: True,
) -> Generator[Item, None, None]:
    """`items` in their order, drawn by a thread called `name` that is at most `size` items ahead.

    Item `number`, from 0, is not drawn before `wanted(number)`.

    What `items` raises is raised here, after the items before it. The thread ends with its iterator, or soon after
    this generator is closed or `stopped()` becomes true.
    """
    waiting: queue.Queue[Item | _End] = queue.Queue(size)
    closed, end = threading.Event(), _End()
    failures: list[BaseException] = []

    def put(item: Item | _End) -> bool:
        while not (closed.is_set() or stopped()):
            try:
                waiting.put(item, timeout=WAIT)
                return True
            except queue.Full:
                continue
        return False

    def on_its_turn(number: int) -> bool:
        wait_until(lambda: wanted(number) or closed.is_set() or stopped())
        return not (closed.is_set() or stopped())

    def draw() -> None:
        try:
            number = 0
            while on_its_turn(number) and (item := next(items, end)) is not end:
                if not put(item):
                    return
                del item  # not held while the next one is made
                number += 1
        except BaseException as failure:  # carried to the other thread, where it is raised
            failures.append(failure)
        put(end)

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
