"""The traffic of one run with an endpoint: shards that are under way together share its places and connections."""

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from secbatch.models.background_loop import BackgroundLoop


class Closable(Protocol):
    async def close(self) -> None: ...


Result = TypeVar("Result")
Used = TypeVar("Used", bound=Closable)  # connections, and what is known only while there are some


class Connected(Generic[Used]):
    """Connections, and a thread for them, while something is under way."""

    def __init__(self, used: Used) -> None:
        self.used = used
        self.users = 0
        self.loop: BackgroundLoop | None = BackgroundLoop("endpoint")

    def close(self) -> None:
        if self.loop is not None:
            self.loop.close(self.used.close())
            self.loop = None


class Line(Generic[Used]):
    """Opened by the first that starts something on it, closed when the last has landed. Used by several threads.

    A copy in another process begins with nothing open.
    """

    def __init__(self, connect: Callable[[], Used]) -> None:
        self._connect = connect
        self._mutex = threading.Lock()
        self._connected: Connected[Used] | None = None
        self._abandoned = False

    def __reduce__(self) -> tuple[type["Line[Used]"], tuple[Callable[[], Used]]]:
        return Line, (self._connect,)

    def start(self, work: Callable[[Used], Coroutine[Any, Any, Result]]) -> "tuple[Future[Result], Connected[Used]]":
        """To be followed by `landed` with what comes back, once the future is done."""
        with self._mutex:
            if self._connected is None:
                self._connected = Connected(self._connect())
            connected = self._connected
            assert connected.loop is not None
            connected.users += 1
            future = connected.loop.start(work(connected.used))
            if self._abandoned:
                self._close()
            return future, connected

    def landed(self, connected: Connected[Used]) -> None:
        with self._mutex:
            connected.users -= 1
            if connected.users == 0:
                connected.close()
                if self._connected is connected:
                    self._connected = None

    def abandon(self) -> None:
        """Cancels all that is under way or yet to come; what is done already can still land."""
        with self._mutex:
            self._abandoned = True
            self._close()

    def _close(self) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            connected.close()
