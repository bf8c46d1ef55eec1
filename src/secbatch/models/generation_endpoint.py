"""Chat completions from a server that speaks OpenAI's protocol (vLLM, llama.cpp and others), many at a time.

What may pass is tried again, with growing pauses. What will not pass concerns either one request, which then has
its reason, or the endpoint as a whole, which ends the run: nothing is lost, a rerun goes on from there.
"""

import asyncio
import email.utils
import json
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from secbatch.errors import ModelError

Result = TypeVar("Result")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between tries, doubled each time
LONGEST_WISH = 300.0  # seconds: a Retry-After beyond it is not waited for in full
MOST_BYTES = 8 << 20  # of one response
MAY_PASS = frozenset((408, 409, 425, 429))  # and all from 500 on
# How servers say that a conversation has more tokens than the model has positions (OpenAI, vLLM, llama.cpp).
TOO_LONG = ("context_length", "context length", "maximum context", "context size", "max_model_len", "too many tokens")


@dataclass(frozen=True)
class Completion:
    """What became of one request."""

    text: str | None
    new_tokens: int | None = None  # as the server counts them, None where it does not
    prompt_tokens: int | None = None
    error: str | None = None
    too_long: bool = False  # the conversation has more tokens than the model has positions


@dataclass(frozen=True)
class Failure:
    """A try that may succeed when it is made again."""

    reason: str
    pause: float | None = None  # seconds that the server asks to wait


class Endpoint:
    """One server and one model on it. Holds no connection and no key between calls, so it can be pickled."""

    def __init__(self, url: str, model: str, concurrency: int, timeout: float, retries: int, key_name: str | None):
        """`url`: up to and with /v1. `timeout`: seconds for one try. `key_name`: how messages call the key's place."""
        self.url, self.model, self.key_name = url, model, key_name
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries

    def complete(self, bodies: Sequence[dict[str, Any]], key: str | None) -> list[Completion]:
        """A completion for each request body, in order.

        Raises ModelError, one sentence, when the endpoint as a whole does not work.
        """
        return _in_a_loop(_Session(self, key).complete(bodies)) if bodies else []


class _Session:
    def __init__(self, endpoint: Endpoint, key: str | None) -> None:
        self.endpoint, self.key = endpoint, key

    async def complete(self, bodies: Sequence[dict[str, Any]]) -> list[Completion]:
        import httpx2 as httpx

        self.places, self.doubt = asyncio.Semaphore(self.endpoint.concurrency), asyncio.Lock()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        async with httpx.AsyncClient(headers=headers, timeout=None) as self.client:
            tasks = [asyncio.ensure_future(self._complete(body)) for body in bodies]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _complete(self, body: dict[str, Any]) -> Completion:
        async with self.places:  # kept while waiting: a server in trouble gets fewer requests
            number = 0
            while True:
                outcome = await self._try(body)
                if isinstance(outcome, Completion):
                    return outcome
                if number == self.endpoint.retries:
                    break
                await asyncio.sleep(_pause(number, outcome))
                number += 1
            reason = f"{number + 1} {'tries' if number else 'try'}, the last one: {outcome.reason}"
            await self._check_alive(reason)
            return Completion(None, error=f"the endpoint answers other questions, but not this one ({reason})")

    async def _check_alive(self, reason: str) -> None:
        """Raises ModelError unless the endpoint answers the shortest question there is."""
        async with self.doubt:
            outcome = await self._try(
                {
                    "model": self.endpoint.model,
                    "messages": [{"role": "user", "content": "Hello"}],
                    "max_tokens": 1,
                }
            )
        if isinstance(outcome, Failure):
            raise ModelError(
                f"endpoint {self.endpoint.url} does not work ({reason}); what is done is kept: run again when it does"
            )

    async def _try(self, body: dict[str, Any]) -> Completion | Failure:
        import httpx2 as httpx

        try:
            async with asyncio.timeout(self.endpoint.timeout):
                url = f"{self.endpoint.url}/chat/completions"
                async with self.client.stream("POST", url, json=body) as response:
                    content = bytearray()
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        if len(content) > MOST_BYTES:
                            return Failure(f"a response of more than {MOST_BYTES >> 20} MB")
        except TimeoutError:
            return Failure(f"no answer within {self.endpoint.timeout:g} s")
        except httpx.ConnectError:
            return Failure("no connection")
        except httpx.HTTPError as problem:
            return Failure(self._shown(str(problem)) or type(problem).__name__)
        return self._judged(response.status_code, response.headers, bytes(content))

    def _judged(self, status: int, headers: Any, content: bytes) -> Completion | Failure:
        endpoint = self.endpoint
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if status == 200:
            return _completion(value)
        said = self._shown(_message(value))
        reason = f"HTTP {status}" + (f": {said}" if said else "")
        if status in MAY_PASS or status >= 500:
            return Failure(reason, _wish(headers.get("retry-after")))
        if status in (401, 403):
            # what the server says of a key may repeat it
            mend = (
                f"check the key in the environment variable {endpoint.key_name}"
                if endpoint.key_name
                else "name the environment variable that holds the key in api_key_env"
            )
            raise ModelError(f"endpoint {endpoint.url} refuses access (HTTP {status}); {mend}")
        if status < 400 or status in (404, 405):
            raise ModelError(
                f"endpoint {endpoint.url} has no chat completions for model {endpoint.model} ({reason});"
                " the endpoint's address ends with /v1 as a rule, and its /models lists what it serves"
            )
        text = (_message(value) + _code(value)).lower()
        too_long = status in (400, 413, 422) and any(sign in text for sign in TOO_LONG)
        return Completion(None, error=f"the endpoint refuses it ({reason})", too_long=too_long)

    def _shown(self, text: str) -> str:
        """Text of a server as a message can hold it: short, one line, without the key."""
        if self.key:
            text = text.replace(self.key, "***")
        plain = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(plain.split())[:200].rstrip(" .")


def _completion(value: Any) -> Completion | Failure:
    try:
        message = value["choices"][0]["message"]
        text = message["content"]
    except (TypeError, KeyError, IndexError):
        return Failure("a response that is no chat completion")
    if text is None:
        return Completion(None, error="the endpoint gave no text as an answer")
    if not isinstance(text, str):
        return Failure("a response that is no chat completion")
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    # JSON can hold halves of characters, which no file can
    text = text.encode("utf-8", "replace").decode()
    return Completion(text, _count(counts.get("completion_tokens")), _count(counts.get("prompt_tokens")))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else None


def _message(value: Any) -> str:
    """What the server says went wrong: OpenAI's form, and FastAPI's."""
    error = value.get("error", value) if isinstance(value, dict) else None
    if isinstance(error, dict):
        error = error.get("message", error.get("detail", ""))
    return error if isinstance(error, str) else ""


def _code(value: Any) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    return f" {error.get('code')} {error.get('type')}" if isinstance(error, dict) else ""


def _wish(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _pause(number: int, failure: Failure) -> float:
    """Seconds before the next try after try `number`; drawn, so that many do not come back at one moment."""
    pause = random.uniform(0.5, 1.0) * min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
    return pause if failure.pause is None else max(pause, min(failure.pause, LONGEST_WISH))


def _in_a_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work` on a thread of its own, as a notebook's has a running loop already; an interrupt cancels it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="endpoint", daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    finally:
        future.cancel()
        asyncio.run_coroutine_threadsafe(_others_end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _others_end() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
