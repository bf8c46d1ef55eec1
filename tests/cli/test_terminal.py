"""How text is shown on a terminal."""

import pytest

from secbatch.cli.terminal import bold, sentence


def test_labels_are_bold_where_the_terminal_can_and_its_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert bold("Input:").startswith("\x1b[1mInput:")
    monkeypatch.setenv("NO_COLOR", "1")
    assert bold("Input:") == "Input:"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert bold("Input:") == "Input:"


def test_of_a_name_without_end_a_sentence_shows_the_ends() -> None:
    said = sentence(f"there is no column '{'x' * 100_000}' in the input; it has a, b")
    assert len(said) < 400 and said.startswith("There is no column 'xxx")
    assert said.endswith("xxx' in the input; it has a, b.")
    assert sentence("/a" * 400) == "/a" * 400 + "."
