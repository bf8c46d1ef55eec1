"""What the response of an OpenAI-compatible server says: an answer, a refusal, or a try that may be made again."""

import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# How servers say that a conversation has more tokens than the model has positions (OpenAI, vLLM, llama.cpp, TGI).
TOO_LONG = (
    "context_length",
    "context length",
    "maximum context",
    "context size",
    "context window",
    "max_model_len",
    "too many tokens",
    "maximum model length",
    "longer than the model",
)
MAY_PASS = frozenset((408, 409, 425, 429))  # and all from 500 on


@dataclass(frozen=True)
class Completion:
    """What became of one request."""

    text: str | None
    new_tokens: int | None = None  # as the server counts them, None where it does not
    prompt_tokens: int | None = None
    error: str | None = None
    too_long: bool = False  # the conversation has more tokens than the model has positions
    refused: bool = False  # by its status


@dataclass(frozen=True)
class Failure:
    """A try that may succeed when it is made again."""

    reason: str
    pause: float | None = None  # seconds that the server asks to wait
    too_many: bool = False  # requests at a time, it says


@dataclass(frozen=True)
class Refusal:
    """It seems to refuse all requests, not this one: access (401, 403, 407), or the model (404 and the like)."""

    status: int
    reason: str


Outcome = Completion | Failure | Refusal  # of one try


def judged(status: int, headers: Mapping[str, str], content: bytes) -> Outcome:
    """`headers`: names in lower case or without regard to it. Texts of the server stand in reasons as they are."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if 200 <= status < 300:  # some gateways say 201: a completion was created
        return _completion(value)
    said = message(value)
    reason = f"HTTP {status}" + (f": {said}" if said else "")
    text = (said + _code(value)).lower()
    # llama.cpp's Python server says so with a 500
    if status in (400, 413, 422, 500) and any(sign in text for sign in TOO_LONG):
        return Completion(None, error=f"the endpoint refuses it ({reason})", too_long=True)
    if status in MAY_PASS or status >= 500:
        return Failure(reason, wish(headers.get("retry-after")), status in (429, 529))
    if status in (401, 403, 404, 405, 407) or status < 400:
        return Refusal(status, reason)
    return Completion(None, error=f"the endpoint refuses it ({reason})", refused=True)


def _completion(value: Any) -> Completion | Failure:
    try:
        choice = value["choices"][0]
        said = choice["message"]
        text = _text(said["content"] if "role" not in said else said.get("content"))
    except (AttributeError, TypeError, KeyError, IndexError):  # a text or a list may well hold "role"
        return _no_completion(message(value))  # some proxies say so with a 200
    if choice.get("error") or choice.get("finish_reason") == "error":  # OpenRouter, of a server behind it
        return _no_completion(message(choice if choice.get("error") else value))
    if text is None or (not text.strip() and _is_none(choice)):
        return Completion(None, error=_why_nothing(choice))
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    # JSON can hold halves of characters, which no file can
    text = text.encode("utf-8", "replace").decode()
    return Completion(text, _count(counts.get("completion_tokens")), _count(counts.get("prompt_tokens")))


def _text(content: Any) -> str | None:
    """Text as it stands, or in parts. Raises TypeError or KeyError where it is neither."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TypeError
    # Mistral's reasoning models send parts, of which some are thoughts.
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    text = part["text"] if part["type"] in ("text", "output_text") else ""
    if not isinstance(text, str):
        raise TypeError
    return text


def _no_completion(problem: str) -> Failure:
    return Failure("a response that is no chat completion" + (f": {problem}" if problem else ""))


def _is_none(choice: dict[str, Any]) -> bool:
    """Whether an empty text stands where others send null, as it does with llama.cpp, Ollama and DeepSeek."""
    said = choice["message"]
    beside = said.get("refusal") or said.get("reasoning_content") or said.get("reasoning")
    return bool(beside) or choice.get("finish_reason") in ("length", "content_filter")


def _why_nothing(choice: dict[str, Any]) -> str:
    said = choice["message"]
    refusal = said.get("refusal")
    if isinstance(refusal, str) and refusal:
        return f"the endpoint gave no answer ({refusal})"
    if choice.get("finish_reason") == "length":
        thought = said.get("reasoning_content") or said.get("reasoning")
        after = " after its reasoning" if thought else ""
        return f"the endpoint came to no answer{after} within generation.max_new_tokens"
    if choice.get("finish_reason") == "content_filter":
        return "the endpoint gave no answer (content_filter)"
    finish = choice.get("finish_reason")
    reason = f" (finish_reason: {finish})" if isinstance(finish, str) and finish else ""
    return f"the endpoint gave no text as an answer{reason}"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else None


def message(value: Any) -> str:
    """What the server says went wrong: OpenAI's form, and FastAPI's."""
    error = value.get("error", value) if isinstance(value, dict) else None
    if isinstance(error, dict):
        error = error.get("message", error.get("detail", ""))
    if isinstance(error, list):  # FastAPI's, of a request that does not fit its schema
        error = "; ".join(str(one["msg"]) for one in error if isinstance(one, dict) and "msg" in one)
    return error if isinstance(error, str) else ""


def _code(value: Any) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    return f" {error.get('code')} {error.get('type')}" if isinstance(error, dict) else ""


def wish(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None  # "nan" and "inf" are numbers, too
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
