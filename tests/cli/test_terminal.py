"""How text is shown on a terminal."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest

from secbatch.cli.figures import write_json
from secbatch.cli.measured import Measured
from secbatch.cli.terminal import bold, printable, sentence


def test_labels_are_bold_where_the_terminal_can_and_its_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert bold("Input:").startswith("\x1b[1mInput:")
    monkeypatch.setenv("NO_COLOR", "1")
    assert bold("Input:") == "Input:"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert bold("Input:") == "Input:"


def test_text_of_any_script_is_shown_as_it_is_and_not_looked_at_letter_by_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = [chr(code) for code in range(sys.maxunicode + 1)]
    hidden = {c for c in everything if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")}
    assert {c for c in everything if printable(c) != c} == hidden
    looked_at: list[str] = []
    category = unicodedata.category
    monkeypatch.setattr("secbatch.cli.terminal.unicodedata.category", lambda c: looked_at.append(c) or category(c))
    text = "Größe 漢字 · naïve Москва 🙂" * 100
    assert printable(text) == text and looked_at == []
    with_hidden = f"{text}\u00a0\u202e{text}\x1b[31m"
    assert printable(with_hidden) == f"{text}\u00a0\\u202e{text}\\x1b[31m"
    assert len(looked_at) == len(set(with_hidden))


def test_of_a_name_without_end_a_sentence_shows_the_ends() -> None:
    said = sentence(f"there is no column '{'x' * 100_000}' in the input; it has a, b")
    assert len(said) < 400 and said.startswith("There is no column 'xxx")
    assert said.endswith("xxx' in the input; it has a, b.")
    assert sentence("/a" * 400) == "/a" * 400 + "."


def test_json_on_standard_output_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"label": "\x9b31m\u202e\U0001f600é"}
    write_json("-", figures)
    said = capsys.readouterr().out
    assert said.isascii() and json.loads(said) == figures


def test_a_metrics_file_that_could_not_be_written_is_named_in_printable_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("prometheus_client")
    folder = tmp_path / "a\x1b]0;b\x07"
    folder.mkdir()
    with Measured(str(folder / "a.prom")):
        folder.rmdir()
    assert "a\\x1b]0;b\\x07/a.prom' cannot be written: No such file" in capsys.readouterr().err
