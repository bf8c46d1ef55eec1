"""How text is shown on a terminal."""

import pytest

from secbatch.cli.terminal import bold


def test_labels_are_bold_where_the_terminal_can_and_its_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert bold("Input:").startswith("\x1b[1mInput:")
    monkeypatch.setenv("NO_COLOR", "1")
    assert bold("Input:") == "Input:"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert bold("Input:") == "Input:"
