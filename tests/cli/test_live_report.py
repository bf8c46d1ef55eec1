"""What a person at a terminal sees of a run."""

import io
import re
import sys

import pytest

from secbatch.cli import live_report
from secbatch.cli.watch import Watch


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, kind: str, columns: int) -> str:
    """All that a run with many rows writes there."""
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live_report, "LINE_SECONDS", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Watch("text") as watch:
        watch.notice("Reading reports/[red]a:smile:.csv")
        watch.progress(2_416_300, 17_000, 0.44)
    return terminal.getvalue()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_share_done_is_seen_however_narrow_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_a_terminal(monkeypatch, "xterm", columns)
    assert " 44% 2,416,300 rows" in written
    assert "\x1b[?25h" in written  # the cursor is seen again
    drawn = [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)) if "44%" in line]
    assert drawn and all(len(line) <= columns - 2 for line in drawn)  # room for ^C, which would make a second line


def test_a_window_that_becomes_as_narrow_as_most_are_breaks_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(monkeypatch, "xterm", 200))
    drawn = [line for line in re.split(r"[\r\n]", written) if "44%" in line]
    assert drawn and all(len(line) < 80 for line in drawn)


def test_names_in_notices_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "reports/[red]a:smile:.csv." in on_a_terminal(monkeypatch, "xterm", 120)


@pytest.mark.parametrize(("kind", "encoding"), [("dumb", "utf-8"), ("xterm", "ascii")])
def test_a_terminal_that_cannot_move_its_cursor_or_has_no_dots_gets_lines(
    monkeypatch: pytest.MonkeyPatch, kind: str, encoding: str
) -> None:
    monkeypatch.setattr(Terminal, "encoding", encoding)
    written = on_a_terminal(monkeypatch, kind, 80)
    assert " 44%  2,416,300 rows" in written and "\x1b" not in written
