"""The local engine: three threads around one device, with bounded queues between them."""

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Generic, TypeVar

from secbatch.errors import Interrupted
from secbatch.waiting import BoundedQueue, wait_until

Encoded = TypeVar("Encoded")
Computed = TypeVar("Computed")
Item = TypeVar("Item")


class LocalEngine(Generic[Encoded, Computed]):
    """Drives `encode` (its own thread) -> `compute` (the caller's thread) -> `finish` (its own thread).

    Order is kept. The first exception of any stage stops the others and is raised in the caller. When it is the
    caller's own (an interrupt), what is computed already is finished first: it is a checkpoint gained.
    """

    def __init__(
        self,
        encoded: Generator[Encoded, None, None],
        compute: Callable[[Encoded], Computed],
        finish: Callable[[Computed], None],
        idle: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
        give_up: Callable[[BaseException], None] = lambda reason: None,
        waiting: int = 1,
        landing: int | None = None,
    ) -> None:
        """`encoded` is drawn on the encoding thread, so that it may do that stage's work. On the finishing thread
        `idle` is called now and then while it waits, and `end` when nothing more comes to it. `give_up(reason)` is
        called on the thread of a stage that has raised: what the others wait for may not be wanted any more. `waiting`:
        shards that wait between two stages: one hides jitter, and each costs memory. `landing`: the same of those that
        wait to be finished, which others may still work on."""
        self._encoded, self._compute, self._finish = encoded, compute, finish
        self._idle, self._end, self._give_up = idle, end, give_up
        self._to_compute: BoundedQueue[Encoded] = BoundedQueue(waiting)
        self._to_finish: BoundedQueue[Computed] = BoundedQueue(landing or waiting)
        self._stopped = threading.Event()
        self._interrupted = threading.Event()
        self._failures: list[BaseException] = []
        self._over: set[str] = set()  # names of threads that are through

    @property
    def stopping(self) -> bool:
        """Another stage has failed or was interrupted: what is still to be encoded will not be computed."""
        return self._stopped.is_set() or self._interrupted.is_set()

    def run(self) -> None:
        first = threading.Thread(target=self._guard, args=(self._encode_all,), name="encode", daemon=True)
        last = threading.Thread(target=self._guard, args=(self._finish_all,), name="finish", daemon=True)
        begun: dict[str, threading.Thread] = {}
        try:
            for thread in (first, last):
                thread.start()
                begun[thread.name] = thread
            while not self._stopped.is_set():
                item = self._get(self._to_compute)
                if item is None:
                    break
                computed = self._compute(item)
                del item  # what was encoded is not held while the computed waits
                self._put(self._to_finish, computed)
                del computed
            self._to_finish.end()
            wait_until(lambda: last.name in self._over or bool(self._failures))
        except BaseException as reason:
            self._interrupted.set()
            self._give_up(reason)
            if self._failures and isinstance(reason, Interrupted):
                raise self._failures[0] from None  # for which this stage was given up
            raise
        finally:
            try:
                self._to_finish.end()
                wait_until(lambda: last.name not in begun or last.name in self._over or bool(self._failures))
            finally:  # also when the interrupt comes as late as that
                self._stopped.set()
                wait_until(lambda: self._over.issuperset(begun))
                for thread in begun.values():
                    thread.join()
        if self._failures:
            raise self._failures[0]

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as failure:  # carried to the caller's thread, where it is raised
            if self._interrupted.is_set() and isinstance(failure, Interrupted):
                return  # it has heard of the interrupt, which the caller's thread raises
            self._failures.append(failure)
            self._stopped.set()
            self._give_up(failure)
        finally:
            self._over.add(threading.current_thread().name)

    def _encode_all(self) -> None:
        with closing(self._encoded):  # what reads ahead for it has ended, too, when the run is over
            for item in self._encoded:
                if not self._put(self._to_compute, item):
                    return
                del item  # not held while the next one is made
        self._to_compute.end()

    def _finish_all(self) -> None:
        while (item := self._get(self._to_finish, self._idle)) is not None:
            given = [item]
            del item
            try:
                self._finish(given.pop())  # which alone holds it, and may let go of it early
            except Interrupted:
                if not self._interrupted.is_set():
                    raise
                # It was given up. What was begun after it may be there as a whole.
        self._end()

    def _put(self, target: "BoundedQueue[Item]", item: Item) -> bool:
        while not self._stopped.is_set():
            if target.put(item, timeout=0.1):
                return True
        return False

    def _get(self, source: "BoundedQueue[Item]", idle: Callable[[], None] = lambda: None) -> "Item | None":
        while not self._stopped.is_set():
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                idle()
        return None
