"""Who is to blame when there is no memory for a batch, and what is done about it."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from enum import Enum, auto

from secbatch.errors import Interrupted, SecbatchError
from secbatch.models.out_of_memory import onednn_is_stuck
from secbatch.waiting import pause
from secbatch.work_done import work_in_hand

PAUSE, PAUSES = 0.25, 8  # seconds of the first pause, and how many: each is twice as long, about a minute in all
FEW = 4  # of them for a row that may be too long, four seconds, before it is rejected; longer waiting is told
RENEWED = 600.0  # seconds after which it may be waited again, whatever came of it
HOPELESS = 8  # rows, one after another, of which none has room


class Next(Enum):
    """What is to be done with a batch that had no room."""

    AGAIN = auto()  # the same batch once more
    FEWER = auto()  # half as many rows at a time, for good
    LATER = auto()  # the row alone, once others are through
    NEVER = auto()  # the row is rejected


class MemoryPatience:
    """What has had room on a device; what then has none is no larger than the device, but for once in somebody's way.

    So it is waited for, as another process may give the memory back, and for no more than a minute. A batch larger
    than all before is blamed at once, and a row alone after a few seconds. Sizes are tuples of whatever takes memory,
    always the same numbers.
    """

    def __init__(self, device: str, most: int = PAUSES, abandoned: Callable[[], bool] | None = None) -> None:
        """`device`: its name for messages. `most`: pauses; fewer where an interrupt cannot end them.

        `abandoned`: whether nobody wants the batch any more, for threads that no interrupt reaches.
        """
        self._device, self._most, self._abandoned = device, most, abandoned
        self._waits = (
            f"On {device} there is no memory for the next batch; another process may have taken it, so it is waited"
            " for, up to a minute."
        )
        self._room: tuple[int, ...] = ()  # the largest of each number that went through
        self._pauses = 0  # made so far
        self._waited_for: tuple[int, ...] = ()
        self._since = 0.0  # monotonic time of the first of the pauses
        self._without = 0  # rows that had no room even alone, since something had

    def went_through(self, size: tuple[int, ...]) -> None:
        """A batch had room, or a part of it that need not be done again."""
        self._room = tuple(map(max, self._room or size, size))
        self._without = 0
        if _fits(self._waited_for, size) or time.monotonic() - self._since > RENEWED:
            self._pauses = 0

    def had_room(self, size: tuple[int, ...]) -> bool:
        """Whether something as large went through before."""
        return bool(size) and bool(self._room) and _fits(size, self._room)

    def lack(self, size: tuple[int, ...]) -> str:
        """Why a row of this size is rejected, as the end of a sentence that says how long it is."""
        if self.had_room(size):
            return f"for which {self._device} has no memory any more, though it had before"
        return f"more than the memory of {self._device} takes at once"

    def after_failure(self, size: tuple[int, ...], alone: bool, last: bool) -> Next:
        """What to do with a batch of one row (`alone`) or of several; it may wait first.

        `last`: everything else was tried, so that a row can only wait, or be rejected. Raises SecbatchError where
        that is no row's fault: one after another has had no room, the shortest too, and longer ones had it before; or
        where nothing can be computed any more because memory has run out. Raises Interrupted once it is abandoned.
        """
        if self._pauses < self._allowed(size, last):
            self._wait(size)
            return Next.AGAIN
        if not alone:
            return Next.FEWER
        if not last:
            self._without += 1
            return Next.LATER
        if onednn_is_stuck():
            raise SecbatchError(
                "Memory ran out, and oneDNN, which computes on the CPU, does not get over that in a process; run"
                " the same command again where there is more, what is finished is kept"
            )
        if self.had_room(size) and self._without >= HOPELESS:
            raise SecbatchError(
                f"There is no memory left on {self._device}, not even for less than had room before: another process"
                " must have taken it; run the same command again once there is some, what is finished is kept"
            )
        return Next.NEVER

    def _allowed(self, size: tuple[int, ...], last: bool) -> int:
        """Pauses, with those that were made. Without any knowledge, what is left at the end is no larger than all."""
        if self.had_room(size) or (last and not self._room):
            return self._most
        return min(FEW, self._most) if last else 0

    def _wait(self, size: tuple[int, ...]) -> None:
        if not self._pauses:
            self._since = time.monotonic()
        self._waited_for = size
        abandoned = self._abandoned or (lambda: False)
        with work_in_hand().waiting(self._waits) if self._pauses >= FEW else nullcontext():
            pause(PAUSE * 2**self._pauses, abandoned)
        if abandoned():
            raise Interrupted("Interrupted while memory was waited for")
        self._pauses += 1


def _fits(size: tuple[int, ...], room: tuple[int, ...]) -> bool:
    return all(number <= most for number, most in zip(size, room, strict=False))
