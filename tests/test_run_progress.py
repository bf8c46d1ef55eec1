"""What `secbatch status` is told of a run in progress."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from fake_task import install_in

from secbatch import run_progress
from secbatch.job import Job
from secbatch.reporting import Silent
from secbatch.run_progress import RunProgress
from secbatch.runner import run_job
from secbatch.time_left import TimeLeft
from secbatch.underway import Underway


def source() -> Any:
    """Of more rows than a limit asks for."""
    return MagicMock(bytes_given=0, bytes_total=1, rows_given=100)


def test_the_time_left_follows_the_speed_of_the_last_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now[0])
    result: Any = MagicMock(enriched=0, reused=0, rejected=0, read=100, superseded=0, run="run")
    rejects = MagicMock(count=0)
    progress = RunProgress("job", 100, "", 1000.0, result, source(), rejects, MagicMock(), TimeLeft(1000.0), Underway())
    told = []
    for moment, done in ((1080.0, 0), (1090.0, 10), (1100.0, 20), (1110.0, 30)):
        now[0], result.enriched = moment, done
        told.append(progress.snapshot()["seconds_left"])
    assert told == [None, 90.0, 80.0, 70.0]


def test_work_on_shards_that_are_underway_moves_the_share_and_not_what_is_done() -> None:
    result: Any = MagicMock(enriched=20, reused=0, rejected=0, read=100, superseded=0, run="run")
    underway = Underway()
    rejects = MagicMock(count=0)
    progress = RunProgress("job", 100, "", 0.0, result, source(), rejects, MagicMock(), TimeLeft(0.0), underway)
    underway.begin(1, 20).reached(1.0)  # through the device, and not durable yet
    underway.begin(2, 40).reached(0.25)
    assert (progress.fraction(), progress.reached()) == (0.2, 0.5)
    result.enriched = 40
    underway.end(1)
    assert (progress.fraction(), progress.reached()) == (0.4, 0.5)
    snapshot = progress.snapshot()
    assert (snapshot["fraction"], snapshot["enriched"]) == (0.5, 40)


def test_a_limit_may_have_any_number_of_digits() -> None:
    result: Any = MagicMock(enriched=20, reused=0, read=100, superseded=0)
    underway = Underway()
    progress = RunProgress("job", 10**400, "", 0.0, result, source(), MagicMock(), MagicMock(), TimeLeft(0.0), underway)
    underway.begin(1, 20).reached(0.25)
    assert progress.fraction() == pytest.approx(0) and progress.reached() == pytest.approx(0)


class Shares(Silent):
    def __init__(self) -> None:
        self.told: list[float] = []

    def progress(self, rows: int, rejected: int, fraction: float) -> None:
        self.told.append(fraction)


@pytest.mark.parametrize("limit", [None, 150, 300, 100_000])
@pytest.mark.parametrize("names", [300, 100], ids=["each row once", "rows that are superseded"])
def test_what_is_done_comes_to_the_whole(
    limit: int | None, names: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_in(tmp_path, monkeypatch, (150,))
    Path("in.csv").write_text("id,text\n" + "".join(f"{number % names},row {number}\n" for number in range(300)))
    values = {
        "name": "shares",
        "input": {"path": "in.csv", "id": ["id"]},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
        "output": {"path": "out"},
    }
    shares = Shares()
    run_job(Job.model_validate(values), limit=limit, reporter=shares)
    assert shares.told == sorted(shares.told)
    assert shares.told[-1] == 1
