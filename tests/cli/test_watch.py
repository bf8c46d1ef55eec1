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
