"""How many requests a server gets at a time: fewer while it says that they are too many.

Additive increase, multiplicative decrease, as in TCP's congestion avoidance (Jacobson 1988).
"""

import asyncio
import time
from types import TracebackType

SETTLING = 1.0  # seconds in which several complaints are one: the requests were sent before the first of them came


class Throttle:
    """Use with `async with` around a request. On one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = float(most)
        self._at_work = 0
        self._lowered = -SETTLING
        self._free = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self._free:
            await self._free.wait_for(lambda: self._at_work < int(self.limit))
            self._at_work += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at_work -= 1
        async with self._free:
            self._free.notify(max(0, int(self.limit) - self._at_work))

    def too_many(self) -> None:
        """The server has said so."""
        now = time.monotonic()
        if now - self._lowered >= SETTLING:
            self._lowered, self.limit = now, max(1.0, self.limit / 2)

    def answered(self) -> None:
        """Once as many as go at a time were answered, one more goes at a time, or an eighth more."""
        self.limit = min(float(self._most), self.limit + max(1 / self.limit, 1 / 8))
