"""Sentences to measure with: a file's, or the bundled reports' with each word masked in turn."""

import csv
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq

from secbatch.sources.sentences import split_sentences

REPORTS = Path(__file__).parents[1] / "sample_data" / "reports.parquet"
MASK = "<mask>"


def distinct_sentences(file: Path | None, rows: int) -> list[str]:
    """`rows` different texts with one `<mask>` each.

    `file`: one sentence a line; None for the bundled reports. Each sentence comes with its middle word masked
    first, then with the other words in turn; when all are used up, numbered.
    """
    plain = _lines(file) if file else _bundled()
    found: dict[str, None] = {}
    for turn in count():
        before = len(found)
        for sentence in plain:
            if masked := _masked(sentence, turn):
                found[masked] = None
            if len(found) == rows:
                return list(found)
        if len(found) == before:
            break
    if not found:
        raise SystemExit(f"{file or REPORTS} holds no sentence of three words or more.")
    base = list(found)
    for number in count(2):
        for sentence in base:
            found[f"{sentence} ({number})"] = None
            if len(found) == rows:
                return list(found)
    raise AssertionError("unreachable")


def write_csv(path: Path, sentences: list[str], more: Mapping[str, list[str]] | None = None) -> None:
    """A file as an analyst has it: report, line, date and sentence; and `more` columns."""
    more = more or {}
    with path.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["report_id", "line", "report_date", "sentence", *more])
        for place, (text, *others) in enumerate(zip(sentences, *more.values(), strict=True)):
            report, line = divmod(place, 25)
            date = f"2025-{report % 12 + 1:02d}-{report % 28 + 1:02d}"
            writer.writerow([f"{report:06d}", line + 1, date, text, *others])


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _bundled() -> list[str]:
    texts = pq.read_table(REPORTS, columns=["text"]).column("text").to_pylist()
    return [text[start:end] for text in texts for start, end in split_sentences(text)]


def _masked(sentence: str, turn: int) -> str | None:
    """The sentence with one word masked, the middle one at turn 0; None when it has no more words."""
    words = sentence.replace(MASK, "it").split()
    if len(words) < 3 or turn >= len(words):
        return None
    place = (len(words) // 2 + turn) % len(words)
    return " ".join([*words[:place], MASK, *words[place + 1 :]])
