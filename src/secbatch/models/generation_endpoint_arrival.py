"""Whether a response was there before its request was sent: it answers an earlier one then.

HTTP/1.1 tells the responses on a connection apart by their order alone. A server that sends two to one request would
have all later requests on that connection answered with what another one asked for.
"""

import asyncio
from collections.abc import Mapping
from typing import Any


class Arrival:
    """Told of the steps of one request by the HTTP client, as its extension `trace`.

    What comes over the network takes a turn of the event loop. What takes none was read together with the end of the
    response before it.
    """

    def __init__(self) -> None:
        self.early = False
        self._waited = False

    async def __call__(self, step: str, facts: Mapping[str, Any]) -> None:
        name, _, state = step.rpartition(".")
        if name != "http11.receive_response_headers":
            return
        if state == "started":
            self._waited = False
            asyncio.get_running_loop().call_soon(self._wait)
        else:  # complete, or failed: what was left over is no response
            self.early = not self._waited

    def _wait(self) -> None:
        self._waited = True
