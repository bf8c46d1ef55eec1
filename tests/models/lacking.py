"""A device that has no memory at the operations one chooses."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from secbatch.models import memory_patience


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


class Clock:
    """Pauses take no time here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.pauses = 1e6, 0
        self.begin = self.now
        monkeypatch.setattr(memory_patience.time, "sleep", self.sleep)
        monkeypatch.setattr(memory_patience.time, "monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now, self.pauses = self.now + seconds, self.pauses + 1

    @property
    def waited(self) -> float:
        """Seconds of all pauses, while nothing else moves the clock."""
        return self.now - self.begin
