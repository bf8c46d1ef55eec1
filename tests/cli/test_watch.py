"""What a person sees of a run in progress."""

import pytest

from secbatch.cli import live_report, watch
from secbatch.cli.watch import Watch


def test_the_time_left_does_not_count_what_was_before_the_first_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live_report, "LINE_SECONDS", 0.0)
    with Watch("text") as seen:
        for moment, rows in ((1090.0, 10), (1100.0, 20), (1110.0, 30)):  # a model was loaded for 80 seconds
            now[0] = moment
            seen.progress(rows, 0, rows / 100)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" · ")[2] for line in lines] == ["13 min 30 s left", "1 min 20 s left", "1 min 10 s left"]


def test_a_log_gets_no_line_twice_and_no_speed_before_the_first_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    with Watch("text") as seen:
        for moment, rows, fraction in ((1010.0, 0, 0.0), (1020.0, 0, 0.1), (1030.0, 0, 0.1), (1040.0, 8, 0.2)):
            now[0] = moment
            seen.progress(rows, 0, fraction)
    first, second = capsys.readouterr().err.splitlines()
    assert first == " 10%  0 rows · 1 min 30 s left"
    assert second.startswith(" 20%  8 rows · 0.2 rows/s · ")
