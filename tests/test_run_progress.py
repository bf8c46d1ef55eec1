"""What `secbatch status` is told of a run in progress."""

from typing import Any
from unittest.mock import MagicMock

import pytest

from secbatch import run_progress
from secbatch.run_progress import RunProgress
from secbatch.time_left import TimeLeft
from secbatch.underway import Underway


def test_the_time_left_follows_the_speed_of_the_last_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now[0])
    result: Any = MagicMock(enriched=0, reused=0, rejected=0, read=100, run="run")
    progress = RunProgress(
        "job", 100, "", 1000.0, result, MagicMock(), MagicMock(count=0), MagicMock(), TimeLeft(1000.0), Underway()
    )
    told = []
    for moment, done in ((1080.0, 0), (1090.0, 10), (1100.0, 20), (1110.0, 30)):
        now[0], result.enriched = moment, done
        told.append(progress.snapshot()["seconds_left"])
    assert told == [None, 810.0, 80.0, 70.0]


def test_work_on_shards_that_are_underway_moves_the_share_and_not_what_is_done() -> None:
    result: Any = MagicMock(enriched=20, reused=0, rejected=0, read=100, run="run")
    underway = Underway()
    progress = RunProgress(
        "job", 100, "", 0.0, result, MagicMock(), MagicMock(count=0), MagicMock(), TimeLeft(0.0), underway
    )
    underway.begin(1, 20).reached(1.0)  # through the device, and not durable yet
    underway.begin(2, 40).reached(0.25)
    assert (progress.fraction(), progress.reached()) == (0.2, 0.5)
    result.enriched = 40
    underway.end(1)
    assert (progress.fraction(), progress.reached()) == (0.4, 0.5)
    snapshot = progress.snapshot()
    assert (snapshot["fraction"], snapshot["enriched"]) == (0.5, 40)


def test_a_limit_may_have_any_number_of_digits() -> None:
    result: Any = MagicMock(enriched=20, reused=0)
    underway = Underway()
    progress = RunProgress(
        "job", 10**400, "", 0.0, result, MagicMock(), MagicMock(count=0), MagicMock(), TimeLeft(0.0), underway
    )
    underway.begin(1, 20).reached(0.25)
    assert progress.fraction() == pytest.approx(0) and progress.reached() == pytest.approx(0)
