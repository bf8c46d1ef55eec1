"""What a run's stages are given beside a GPU, and beside a CPU."""

import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from secbatch import shard_stages
from secbatch.shard_stages import ShardStages


@pytest.fixture
def interval() -> Iterator[float]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.01)
    yield 0.01
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("device", "waiting", "writers", "turns"), [("cpu", 1, 2, 0.01), ("cuda:0", 2, 4, 0.0005)])
def test_a_gpu_has_more_writers_a_longer_queue_and_short_turns(
    device: str, waiting: int, writers: int, turns: float, interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Engine:
        def __init__(self, *_: Any, **settings: Any) -> None:
            seen["waiting"] = settings["waiting"]

        def __class_getitem__(cls, _: Any) -> Any:
            return cls

        def run(self) -> None:
            seen["turns"] = sys.getswitchinterval()

    class Writing(MagicMock):
        def __class_getitem__(cls, _: Any) -> Any:
            return lambda threads: seen.setdefault("writers", threads) and MagicMock()

    monkeypatch.setattr(shard_stages, "LocalEngine", Engine)
    monkeypatch.setattr(shard_stages, "InOrder", Writing)
    context = MagicMock()
    context.setup.compute.device = device
    ShardStages(context, MagicMock(), MagicMock(), MagicMock(), {}, {}).work()
    assert (seen["waiting"], seen["writers"]) == (waiting, writers)
    assert seen["turns"] == pytest.approx(turns, rel=0.05)
    assert sys.getswitchinterval() == pytest.approx(interval, rel=0.05)
