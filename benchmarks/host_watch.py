"""What the thread that feeds a device does, moment by moment, while a job runs."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any
from unittest.mock import patch

from secbatch.engines.local import LocalEngine
from secbatch.models import packed_encoder
from secbatch.models.batch_runner import BatchRunner
from secbatch.models.packed_encoder import PackedEncoder
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import Flight

# What is seen; of calls within calls, the inner one. On other threads the same calls are not looked at.
SEEN: tuple[tuple[str, object, str], ...] = (
    ("waits for a shard", LocalEngine, "_get"),
    ("waits for the thread that finishes", LocalEngine, "_put"),
    ("waits for the GPU", Flight, "wait"),
    ("plans batches", BatchRunner, "run"),
    ("picks a batch's tokens", TokenSequences, "select"),
    ("brings a batch to the GPU", packed_encoder, "blocks"),
    ("calls the layers", PackedEncoder, "__call__"),
    ("calls what follows the layers", Flight, "__init__"),
)
REST = "anything else"

Span = tuple[int, int, str]  # nanoseconds since 1970 of its begin and end, and what it was spent on


class HostWatch:
    """Use as a context manager around a job; made on the thread that runs it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []  # one after another, without gaps
        self._thread = threading.get_ident()
        self._doing = [REST]
        self._since = time.time_ns()
        self._patches = ExitStack()

    def __enter__(self) -> "HostWatch":
        for what, owner, name in SEEN:
            self._patches.enter_context(patch.object(owner, name, self._watched(what, getattr(owner, name))))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._patches.close()
        self._switch()

    def between(self, low: int, high: int) -> "Counter[str]":
        """Nanoseconds of each activity between two moments."""
        found: Counter[str] = Counter()
        for begin, end, what in self.spans:
            if (shared := min(end, high) - max(begin, low)) > 0:
                found[what] += shared
        return found

    def _watched(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watched(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return call(*arguments, **named)
            self._switch()
            self._doing.append(what)
            try:
                return call(*arguments, **named)
            finally:
                self._switch()
                self._doing.pop()

        return watched

    def _switch(self) -> None:
        now = time.time_ns()
        self.spans.append((self._since, now, self._doing[-1]))
        self._since = now
