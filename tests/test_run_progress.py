"""What `secbatch status` is told of a run in progress."""

from typing import Any
from unittest.mock import MagicMock

import pytest

from secbatch import run_progress
from secbatch.run_progress import RunProgress
from secbatch.time_left import TimeLeft


def test_the_time_left_follows_the_speed_of_the_last_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now[0])
    result: Any = MagicMock(enriched=0, reused=0, rejected=0, read=100, run="run")
    progress = RunProgress(
        "job", 100, "", 1000.0, result, MagicMock(), MagicMock(count=0), MagicMock(), TimeLeft(1000.0)
    )
    told = []
    for moment, done in ((1080.0, 0), (1090.0, 10), (1100.0, 20), (1110.0, 30)):
        now[0], result.enriched = moment, done
        told.append(progress.snapshot()["seconds_left"])
    assert told == [None, 810.0, 80.0, 70.0]
