"""A device that has no memory at the operations one chooses."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from secbatch.models import memory_patience, native


class Lacking(TorchDispatchMode):
    """Inside, the operations of torch whose numbers are in `at`, counted from 1, find no memory."""

    def __init__(self, *at: int) -> None:
        super().__init__()
        self.at, self.operations = set(at), 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.operations += 1
        if self.operations in self.at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return function(*arguments, **(named or {}))


class LackingAttention:
    """Inside, those calls of compiled code of which `fails` says so, counted from 1, find no memory."""

    def __init__(self, fails: Callable[[int], bool]) -> None:
        self.fails, self.calls, self.failures = fails, 0, 0

    def __enter__(self) -> Self:
        self._code = native._code
        native._code = SimpleNamespace(  # type: ignore[assignment]
            supported=self._code.supported, **{name: self._lacking(name) for name in ("within", "cache", "sum_norm")}
        )
        return self

    def __exit__(self, *_: object) -> None:
        native._code = self._code

    def _lacking(self, name: str) -> Callable[..., None]:
        def called(*arguments: Any) -> None:
            self.calls += 1
            if self.fails(self.calls):
                self.failures += 1
                raise MemoryError
            getattr(self._code, name)(*arguments)

        return called


class Clock:
    """Pauses take no time here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.pauses = 1e6, 0
        self.begin = self.now
        monkeypatch.setattr(memory_patience, "pause", lambda seconds, _: self.sleep(seconds))
        monkeypatch.setattr(memory_patience.time, "monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now, self.pauses = self.now + seconds, self.pauses + 1

    @property
    def waited(self) -> float:
        """Seconds of all pauses, while nothing else moves the clock."""
        return self.now - self.begin
