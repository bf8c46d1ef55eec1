"""What a cell of a labelled table holds: spans, answers, and the words that spans are made of."""

import contextlib
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from secbatch.errors import counted, quoted
from secbatch.labelled.examples import Answer, Span

_WHOLE = re.compile(r"\s*[0-9]+\.0+\s*")
_WORD = re.compile(r"\w+|[^\w\s]")


def spans_in(value: Any, text: str) -> tuple[Span, ...]:
    """Spans of `text` in order, as a list or JSON text of one; see `read_tokens`.

    Raises ValueError, whose words end a sentence that begins with the spans.
    """
    if value is None:
        raise ValueError("are missing; an empty list says that there are none")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("are no JSON; write [[start, end, label], …]") from None
    if not isinstance(value, list):
        raise ValueError("are no list")
    spans = sorted(_span(one, text) for one in value)
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise ValueError(f"overlap: {before.start}–{before.end} and {after.start}–{after.end}")
    return tuple(spans)


def _span(value: Any, text: str) -> Span:
    parts = [value.get(name) for name in ("start", "end", "label")] if isinstance(value, dict) else value
    if not isinstance(parts, list) or len(parts) != 3 or any(part is None for part in parts):
        raise ValueError("hold one that is not start, end and label")
    try:
        start, end, label = _offset(parts[0]), _offset(parts[1]), str(parts[2]).strip()
    except (TypeError, ValueError, OverflowError):
        raise ValueError("hold one whose start or end is no whole number") from None
    if not label:
        raise ValueError(f"hold one without a label, {start}–{end}")
    if not 0 <= start < end <= len(text):
        raise ValueError(f"hold {start}–{end}, which is not within the text's {counted(len(text), 'character')}")
    inside = text[start:end]
    if not inside.strip():
        raise ValueError(f"hold {start}–{end}, where there is nothing but blanks")
    return Span(start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip()), label)


def _offset(value: Any) -> int:
    """Raises ValueError and its like for what is no whole number.

    3.0, as pandas writes numbers beside nulls, is 3; also in a CSV file, where it is text.
    """
    number = int(value.partition(".")[0] if isinstance(value, str) and _WHOLE.fullmatch(value) else value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError(value)
    return number


def words_of(text: str, spans: Sequence[Span]) -> tuple[tuple[int, int], ...]:
    """Runs of letters and digits, and other characters one by one; a span's ends also end words."""
    cuts = sorted({place for span in spans for place in (span.start, span.end)})
    words: list[tuple[int, int]] = []
    at = 0
    for match in _WORD.finditer(text):
        start, end = match.span()
        while at < len(cuts) and cuts[at] <= start:
            at += 1
        while at < len(cuts) and cuts[at] < end:
            words.append((start, cuts[at]))
            start = cuts[at]
            at += 1
        words.append((start, end))
    return tuple(words)


def answers_in(value: Any, start: Any, context: str) -> tuple[Answer, ...]:
    """Answers that stand in `context`, none for an empty cell; see `read_questions`. Raises ValueError: the reason."""
    if isinstance(value, str) and value.startswith("{"):  # as JSONL files hold it
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(value)
            value = parsed if {"text", "answer_start"} <= parsed.keys() else value
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise ValueError("the answers are not {text: [...], answer_start: [...]} of one length")
        written = [(str(one), place) for one, place in zip(texts, starts, strict=True) if one is not None]
        return tuple(_answer(one, place, context) for one, place in written if one.strip())
    if value is None or not str(value).strip():
        return ()
    return (_answer(str(value), start, context),)


def _answer(text: str, start: Any, context: str) -> Answer:
    if start is None or start == "":
        places = context.count(text)
        if places != 1:
            how = "does not stand in the context" if not places else f"stands {places} times in the context"
            raise ValueError(f"the answer {quoted(text)} {how}; say where in data.answer_start")
        return Answer(text, context.index(text))
    try:
        place = _offset(start)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the start of the answer, {quoted(str(start))}, is no whole number") from None
    if place < 0 or context[place : place + len(text)] != text:
        raise ValueError(f"the answer {quoted(text)} does not stand at character {place} of the context")
    return Answer(text, place)
