"""How much of some work is done: told where it is done, looked at by whoever watches, from any thread.

A context variable leads from the one to the other: the rooms between them hand on rows and tokens, and need not hand on
this as well. What nobody watches is told to nobody.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class WorkDone:
    """Work in hand, and its parts. One thread tells of a part; to tell costs an assignment."""

    def __init__(self) -> None:
        self._share = 0.0
        self._parts: list[tuple[float, WorkDone]] = []
        self._held_up: str | None = None

    @property
    def share(self) -> float:
        """0 to 1; where it was told that work has to be done again, it goes back."""
        return min(self._share + sum(weight * part.share for weight, part in self._parts), 1.0)

    @property
    def held_up(self) -> str | None:
        """What the work waits for at this moment, as a sentence."""
        return self._held_up or next((text for _, part in self._parts if (text := part.held_up)), None)

    def reached(self, share: float) -> None:
        """So much of it is done, with whatever its parts have told."""
        self._share, self._parts = share, []

    def part(self, weight: float) -> "WorkDone":
        """So much of this work, as work of its own."""
        part = WorkDone()
        self._parts.append((weight, part))
        return part

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """What is done inside is this work."""
        before = _in_hand.set(self)
        try:
            yield
        finally:
            _in_hand.reset(before)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Inside, nothing goes on; `text` says why."""
        self._held_up = text
        try:
            yield
        finally:
            self._held_up = None


_in_hand: ContextVar[WorkDone | None] = ContextVar("work in hand", default=None)


def work_in_hand() -> WorkDone:
    """To be told what is done; nobody looks at it where nobody has asked."""
    return _in_hand.get() or WorkDone()


@contextmanager
def part_in_hand(weight: float) -> Iterator[None]:
    """What is done inside is so much of the work in hand; at the end all of it is."""
    part = work_in_hand().part(weight)
    with part.in_hand():
        yield
    part.reached(1.0)
