"""What a shard is said to have taken, which the size of later ones depends on."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from secbatch.shard_stages import ShardStages
from secbatch.stages import StageClock


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    """Seconds that a shard is said to have taken: `began` and `ended` on the device, finished at `at`."""
    told: list[float] = []
    stages: Any = ShardStages.__new__(ShardStages)
    stages._landed, stages.clock = 0.0, StageClock()
    stages.sizes = SimpleNamespace(measured=lambda rows, seconds: told.append(seconds), weighed=lambda rows, size: None)
    enriched = SimpleNamespace(table=SimpleNamespace(num_rows=10))

    def finish(began: float, ended: float, at: float, on_its_way: bool = False) -> float:
        work = SimpleNamespace(identified=SimpleNamespace(shard=SimpleNamespace(num_rows=10)))
        later = SimpleNamespace(**vars(work)) if on_its_way else work
        stages.worker = SimpleNamespace(land=lambda work: later, finish=lambda work: enriched, result_bytes=lambda _: 0)
        monkeypatch.setattr("time.monotonic", lambda: at)
        stages._finished(work, began, ended)
        return told[-1]

    return finish


def test_a_disk_that_stalls_says_nothing_of_the_model(finished: Callable[..., float]) -> None:
    assert finished(0.0, 10.0, at=10.0) == 10.0
    assert finished(10.0, 20.0, at=45.0) == 10.0  # it waited for a write
    assert finished(20.0, 30.0, at=45.1) == 10.0  # as this one did: it is not done in a tenth of a second


def test_a_gpu_works_on_two_shards_at_a_time(finished: Callable[..., float]) -> None:
    assert finished(0.0, 1.0, at=4.0, on_its_way=True) == 4.0
    assert finished(1.0, 5.0, at=8.0, on_its_way=True) == 4.0  # since the first was there
    assert finished(5.0, 9.0, at=8.1, on_its_way=True) == 4.0  # no less than it was given work for
