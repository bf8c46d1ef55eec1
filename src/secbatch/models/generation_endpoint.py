"""Chat completions from a server that speaks OpenAI's protocol (vLLM, llama.cpp and others), many at a time.

What may pass is tried again, with growing pauses. What will not pass concerns either one request, which then has
its reason, or the endpoint as a whole, which ends the run: nothing is lost, a rerun goes on from there.
"""

import asyncio
import math
import random
import ssl
import time
from dataclasses import dataclass, replace
from typing import Any

from secbatch.errors import ModelError, cause
from secbatch.models.generation_endpoint_arrival import Arrival
from secbatch.models.generation_endpoint_connections import Connections
from secbatch.models.generation_endpoint_response import Completion, Failure, Outcome, Refusal, judged
from secbatch.models.generation_endpoint_throttle import Throttle
from secbatch.models.proxies import by_proxy
from secbatch.redaction import redacted

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between tries, doubled each time
LONGEST_WISH = 300.0  # seconds: a Retry-After beyond it is not waited for in full
MOST_BYTES = 8 << 20  # of one response
RECENT = 5.0  # seconds: an answer to another question shows that the endpoint works
ASSURANCES = 3  # tries of the shortest question, before the endpoint is taken for dead


@dataclass(frozen=True)
class Endpoint:
    """One server and one model on it. Holds no connection and no key."""

    url: str  # up to and with /v1
    model: str
    concurrency: int  # requests at a time
    timeout: float  # seconds for one try
    retries: int  # after the first try
    key_name: str | None  # of the environment variable with the key, for messages


class Session:
    """Connections to an endpoint; lives on one event loop."""

    def __init__(self, endpoint: Endpoint, key: str | None) -> None:
        """Raises ModelError where the environment names a proxy or certificates that there cannot be."""
        self.endpoint, self.key = endpoint, key
        self.places = asyncio.Semaphore(endpoint.concurrency)  # for whoever asks; each holds one request at a time
        self._doubt = asyncio.Lock()
        self._throttle = Throttle(endpoint.concurrency)
        self._answered = -math.inf  # monotonic time of its last answer
        self._assured = -math.inf  # monotonic time at which it was last asked the shortest question, and worked
        self._limit_name = "max_tokens"
        self._not_before = 0.0  # monotonic time: the server has asked for a pause
        self._connections = Connections(endpoint.url, key)

    async def close(self) -> None:
        await self._connections.close()

    async def complete(self, body: dict[str, Any]) -> Completion:
        """Raises ModelError, one sentence, when the endpoint as a whole does not work."""
        number = 0
        while True:
            begin = time.monotonic()
            outcome = await self._try(body)
            if isinstance(outcome, Refusal):
                # A firewall before the server says so of a text that looks like an attack, as texts about attacks do.
                await self._check_alive(body, outcome.reason)
                return Completion(None, error=f"the endpoint refuses it ({outcome.reason})", refused=True)
            if isinstance(outcome, Completion):
                if (outcome.refused or outcome.too_long) and self._answered == -math.inf:
                    await self._check_alive(body, outcome.error or "")  # else all rows would be refused, one by one
                return outcome
            if number == self.endpoint.retries:
                break
            await asyncio.sleep(self._pause(number, outcome))
            number += 1
        reason = f"{number + 1} {'tries' if number else 'try'}, the last one: {outcome.reason}"
        if self._answered < max(begin, time.monotonic() - RECENT):
            await self._check_alive(body, reason)
        return Completion(None, error=f"the endpoint answers other questions, but not this one ({reason})")

    def _pause(self, number: int, failure: Failure) -> float:
        """Seconds before the next try. What the server asks of one holds for all: they share one allowance."""
        if failure.pause is not None:
            wanted = time.monotonic() + min(failure.pause, LONGEST_WISH)
            self._not_before = max(self._not_before, wanted)
        return pause(number, failure)

    async def _check_alive(self, body: dict[str, Any], reason: str) -> None:
        """Raises ModelError unless the endpoint answers the shortest question there is, asked as `body` is.

        Those who wait for their turn to ask it take the answer that one of them gets.
        """
        messages = [{"role": "user", "content": "Hello"}]
        doubted = time.monotonic()
        async with self._doubt:
            if self._assured >= doubted:
                return
            outcome: Outcome = Failure(reason)
            for number in range(ASSURANCES):
                if number and isinstance(outcome, Failure):
                    await asyncio.sleep(pause(number, outcome))
                begin = time.monotonic()
                outcome = await self._try(body | {"messages": messages})
                if not isinstance(outcome, Failure) or self._answered >= begin:
                    break
        if isinstance(outcome, Refusal):
            raise ModelError(self._refused(outcome))
        if isinstance(outcome, Completion) and (outcome.refused or outcome.too_long):
            raise ModelError(
                f"endpoint {self.endpoint.url} refuses even the shortest question ({outcome.error}); see whether it"
                f" serves model {self.endpoint.model} and takes these settings"
            )
        if isinstance(outcome, Failure) and self._answered < begin:
            raise ModelError(
                f"endpoint {self.endpoint.url} does not work ({reason}); what is done is kept: run again when it does"
            )
        self._assured = begin

    async def _try(self, body: dict[str, Any]) -> Outcome:
        async with self._throttle:
            # Only now: while it waited for its turn, others may have been asked for a pause.
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait * random.uniform(1.0, 1.1))
            outcome = await self._named(body)
        if isinstance(outcome, Completion) and outcome.text is not None:
            self._answered = time.monotonic()
            self._throttle.answered()
        if isinstance(outcome, Failure) and outcome.too_many:
            self._throttle.too_many()
        return outcome

    async def _named(self, body: dict[str, Any]) -> Outcome:
        """A second time where the server has another name for the limit of new tokens."""
        name, other = self._limit_name, "max_completion_tokens"  # what OpenAI's reasoning models call it
        outcome = await self._sent(body)
        refused = isinstance(outcome, Completion) and outcome.refused and other in (outcome.error or "")
        if refused and name != other:
            self._limit_name = other
            outcome = await self._sent(body)
        return outcome

    async def _sent(self, body: dict[str, Any]) -> Outcome:
        """A second time, on a connection of its own, where the answer to an earlier request stood in its place."""
        arrival = Arrival()
        outcome = await self._exchanged(body, arrival)
        if arrival.early:
            self._connections.keep_none()  # none of those that there are can be relied on
            outcome = await self._exchanged(body, Arrival())
        return outcome

    async def _exchanged(self, body: dict[str, Any], arrival: Arrival) -> Outcome:
        import httpx2 as httpx

        if self._limit_name != "max_tokens":
            body = {name: value for name, value in body.items() if name != "max_tokens"} | {
                self._limit_name: body["max_tokens"]
            }
        try:
            with self._connections.one() as client:
                url = f"{self.endpoint.url}/chat/completions"
                asked = client.stream("POST", url, json=body, extensions={"trace": arrival})
                async with asyncio.timeout(self.endpoint.timeout), asked as response:
                    if arrival.early:
                        return Failure("a response that was there before the request")
                    content = bytearray()
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        if len(content) > MOST_BYTES:
                            return Failure(f"a response of more than {MOST_BYTES >> 20} MB")
        except TimeoutError:
            return Failure(f"no answer within {self.endpoint.timeout:g} s")
        except httpx.ConnectError as problem:
            said = (self._shown(str(problem)) + by_proxy(self.endpoint.url)).removeprefix("; ")
            return Failure("no connection" + (f" ({said})" if said else ""))
        except httpx.ProxyError as problem:
            return Failure(self._shown(str(problem) or type(problem).__name__) + by_proxy(self.endpoint.url))
        except httpx.InvalidURL as problem:
            raise ModelError(f"endpoint {self.endpoint.url} is no address ({cause(problem)})") from None
        except (httpx.HTTPError, ssl.SSLError) as problem:  # the second: a record that was damaged on its way
            return Failure(self._shown(str(problem)) or type(problem).__name__)
        outcome = judged(response.status_code, response.headers, bytes(content))
        if isinstance(outcome, Failure | Refusal):
            return replace(outcome, reason=self._shown(outcome.reason))
        return outcome if outcome.error is None else replace(outcome, error=self._shown(outcome.error))

    def _refused(self, refusal: Refusal) -> str:
        endpoint = self.endpoint
        if refusal.status in (401, 403):
            # what the server says of a key may repeat it
            mend = (
                f"check the key in the environment variable {endpoint.key_name}"
                if endpoint.key_name
                else "name the environment variable that holds the key in api_key_env"
            )
            return f"endpoint {endpoint.url} refuses access (HTTP {refusal.status}); {mend}"
        if refusal.status == 407:
            said = f"HTTP 407{by_proxy(endpoint.url)}"
            return f"endpoint {endpoint.url} is not reached: a proxy asks for a user and a password ({said})"
        if 300 <= refusal.status < 400:
            return (
                f"endpoint {endpoint.url} redirects to another address (HTTP {refusal.status}), which is not followed;"
                " name the one that it leads to"
            )
        return (
            f"endpoint {endpoint.url} has no chat completions for model {endpoint.model}"
            f" ({refusal.reason}); the endpoint's address ends with /v1 as a rule, and its /models lists"
            " what it serves"
        )

    def _shown(self, text: str) -> str:
        """Text of a server as a message can hold it: short, one line, without the key and without those of others."""
        text = self.without_key(text)[:10_000]
        plain = "".join(c if c.isprintable() else " " for c in text)
        bare = "".join(c for c in text if c.isprintable())
        if bare != self.without_key(bare):  # it was there in pieces
            plain = self.without_key(bare)
        return redacted(" ".join(plain.split()))[:300].rstrip(" .")

    def without_key(self, text: str) -> str:
        """What is kept of the server's texts, once nothing more is left out of them: it may repeat what it was sent."""
        return text.replace(self.key, "***") if self.key else text


def pause(number: int, failure: Failure) -> float:
    """Seconds before the next try after try `number`; drawn, so that many do not come back at one moment."""
    seconds = random.uniform(0.5, 1.0) * min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
    return seconds if failure.pause is None else max(seconds, min(failure.pause, LONGEST_WISH))
