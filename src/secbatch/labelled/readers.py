"""Labelled files to examples, one reader for each kind of task."""

import contextlib
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from secbatch.errors import InputError
from secbatch.labelled.conll import is_conll, read_conll
from secbatch.labelled.examples import (
    Answer,
    Labelled,
    PairExample,
    QuestionExample,
    Span,
    TextExample,
    TokenExample,
)
from secbatch.labelled.files import LabelledFiles, judge
from secbatch.labelled.tables import LabelledTable, read_table

_WORD = re.compile(r"\w+|[^\w\s]")


def read_classification(
    files: LabelledFiles, text: str, label: str, label_delimiter: str | None = None, group: str | None = None
) -> Labelled[TextExample]:
    """Texts with labels. `text` is a column or a template, `label` a column.

    A column of lists, or a `label_delimiter` within strings, makes it multi-label: a text then has any number of
    labels, none among them. Raises InputError: no such column, or rows without a text or a label.
    """
    rows = read_table(files)
    texts, groups = rows.texts(text, "data.text"), _groups(rows, group)
    labels = _label_sets(rows, label, label_delimiter)
    examples = []
    for row, place in enumerate(rows.places):
        body, found = texts[row], labels[row]
        if body is None:
            rows.reject(row, f"the text ({text}) is empty")
        elif found is None:
            rows.reject(row, f"the label ({label}) is missing")
        elif group is not None and groups[row] is None:
            rows.reject(row, f"the group ({group}) is missing")
        else:
            examples.append(TextExample(body, found, groups[row], place))
    return _labelled(rows, files, examples)


def is_multi_label(files: LabelledFiles, label: str, label_delimiter: str | None) -> bool:
    """Whether the files' labels are sets: lists in the column, or strings with a delimiter."""
    if label_delimiter is not None:
        return True
    rows = read_table(files)
    return _is_list(rows.type_of(label, "data.label")) or _json_lists(rows.strings(label, "data.label")) is not None


def read_texts(files: LabelledFiles, text: str, group: str | None = None) -> Labelled[TextExample]:
    """Texts without labels, for masked LM. Rows with an empty text are passed over: there is nothing to learn."""
    rows = read_table(files)
    texts, groups = rows.texts(text, "data.text"), _groups(rows, group)
    examples = [
        TextExample(body, (), groups[row], place)
        for row, place in enumerate(rows.places)
        if (body := texts[row]) is not None
    ]
    return _labelled(rows, files, examples)


def read_tokens(
    files: LabelledFiles, text: str = "text", spans: str = "spans", group: str | None = None
) -> Labelled[TokenExample]:
    """Texts with labelled spans: CoNLL files, or a table with a text and a column of spans.

    Spans are a list of {start, end, label}, or JSON text of such a list or of [[start, end, label], …]; offsets are
    in characters (Unicode code points), `end` is the one after the last. Raises InputError for what is not so.
    """
    if is_conll(files):
        if group is not None:
            raise InputError(
                f"data.group: {files.path} is a CoNLL file, whose documents are told by {'-DOCSTART-'} lines; take out"
                " data.group"
            )
        return read_conll(files)
    rows = read_table(files)
    rows.check(text, "data.text", "" if files.format else "; of CoNLL files say so with data.format: conll")
    texts, groups = rows.texts(text, "data.text"), _groups(rows, group)
    values = rows.column(spans, "data.spans")
    examples = []
    for row, place in enumerate(rows.places):
        body = texts[row]
        if body is None:
            rows.reject(row, f"the text ({text}) is empty")
            continue
        if group is not None and groups[row] is None:
            rows.reject(row, f"the group ({group}) is missing")
            continue
        try:
            found = _spans(values[row], body)
        except ValueError as error:
            rows.reject(row, f"the spans ({spans}) {error}")
            continue
        examples.append(TokenExample(body, _words(body, found), found, groups[row], place))
    return _labelled(rows, files, examples)


def read_questions(
    files: LabelledFiles,
    question: str = "question",
    context: str = "context",
    answer: str = "answer",
    answer_start: str | None = "answer_start",
    group: str | None = None,
) -> Labelled[QuestionExample]:
    """Questions on contexts with their answers.

    `answer` is a column of strings (empty: no answer) beside one of character offsets, which may be absent where an
    answer stands once in its context; or a column as SQuAD has it, {text: [...], answer_start: [...]}.
    """
    rows = read_table(files)
    questions, contexts = rows.texts(question, "data.question"), rows.texts(context, "data.context")
    groups = _groups(rows, group)
    answers = rows.column(answer, "data.answer")
    starts: Sequence[Any] = [None] * len(answers)
    if answer_start is not None and answer_start in rows.table.schema.names:
        starts = rows.column(answer_start, "data.answer_start")
    examples = []
    for row, place in enumerate(rows.places):
        asked, body = questions[row], contexts[row]
        if asked is None or body is None:
            rows.reject(row, f"the {'question' if asked is None else 'context'} is empty")
            continue
        if group is not None and groups[row] is None:
            rows.reject(row, f"the group ({group}) is missing")
            continue
        try:
            found = _answers(answers[row], starts[row], body)
        except ValueError as error:
            rows.reject(row, str(error))
            continue
        examples.append(QuestionExample(asked, body, found, groups[row], place))
    return _labelled(rows, files, examples)


def read_pairs(files: LabelledFiles, source: str, target: str, group: str | None = None) -> Labelled[PairExample]:
    """Texts and what they become: both are columns or templates."""
    rows = read_table(files)
    sources, targets = rows.texts(source, "data.source"), rows.texts(target, "data.target")
    groups = _groups(rows, group)
    examples = []
    for row, place in enumerate(rows.places):
        body, wanted = sources[row], targets[row]
        if body is None or wanted is None:
            rows.reject(row, f"the {'source' if body is None else 'target'} is empty")
        elif group is not None and groups[row] is None:
            rows.reject(row, f"the group ({group}) is missing")
        else:
            examples.append(PairExample(body, wanted, groups[row], place))
    return _labelled(rows, files, examples)


def _labelled(rows: LabelledTable, files: LabelledFiles, examples: list[Any]) -> Labelled[Any]:
    found = sorted(rows.malformed, key=lambda one: (one.place.file, one.place.row))
    notices = (*rows.notices, *judge(found, files, "rows"))
    if not examples:
        raise InputError(f"{files.path}: no row gives an example")
    return Labelled(tuple(examples), rows.files, tuple(found), notices)


def _groups(rows: LabelledTable, group: str | None) -> list[str | None]:
    return [None] * len(rows.places) if group is None else rows.strings(group, "data.group")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _label_sets(rows: LabelledTable, label: str, delimiter: str | None) -> list[tuple[str, ...] | None]:
    if _is_list(rows.type_of(label, "data.label")):
        return [None if value is None else _distinct(value) for value in rows.column(label, "data.label")]
    values = rows.strings(label, "data.label")
    if delimiter is None and (lists := _json_lists(values)) is not None:
        return [None if value is None else _distinct(value) for value in lists]
    if delimiter is None:
        _check_alike(rows, label, values)
        return [None if value is None else (value,) for value in values]
    return [() if value is None else _distinct(value.split(delimiter)) for value in values]


def _json_lists(values: Sequence[str | None]) -> list[list[Any] | None] | None:
    """Lists written as JSON, as JSONL files hold them; None where a value is anything else."""
    if all(value is None for value in values):
        return None
    lists: list[list[Any] | None] = []
    for value in values:
        found = None if value is None else _json_list(value)
        if found is None and value is not None:
            return None
        lists.append(found)
    return lists


def _json_list(value: str) -> list[Any] | None:
    try:
        found = json.loads(value) if value.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    nested = found is not None and any(isinstance(one, list | dict) for one in found)
    return None if nested else found


def _check_alike(rows: LabelledTable, label: str, values: Sequence[str | None]) -> None:
    """Raises InputError where some rows of a JSONL file have a list of labels and others have none."""
    lists = [value is not None and value.startswith(('["', "[]")) and _json_list(value) is not None for value in values]
    if any(lists):
        bare = next(row for row, value in enumerate(values) if value is not None and _json_list(value) is None)
        raise InputError(
            f"the label ({label}) is a list in {rows.places[lists.index(True)]} and none in {rows.places[bare]}; write"
            " lists in all rows, or one label in each"
        )


def _distinct(labels: Sequence[Any]) -> tuple[str, ...]:
    stripped = (str(label).strip() for label in labels if label is not None)
    return tuple(dict.fromkeys(label for label in stripped if label))


def _spans(value: Any, text: str) -> tuple[Span, ...]:
    """Raises ValueError: the end of a sentence."""
    if value is None:
        raise ValueError("are missing; an empty list says that there are none")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
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
        raise ValueError(f"hold {start}–{end}, which is not within the text's {len(text)} characters")
    inside = text[start:end]
    if not inside.strip():
        raise ValueError(f"hold {start}–{end}, where there is nothing but blanks")
    return Span(start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip()), label)


def _offset(value: Any) -> int:
    """Raises ValueError and its like for what is no whole number; 3.0, as pandas writes numbers beside nulls, is 3."""
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError(value)
    return number


def _words(text: str, spans: Sequence[Span]) -> tuple[tuple[int, int], ...]:
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


def _answers(value: Any, start: Any, context: str) -> tuple[Answer, ...]:
    """Raises ValueError: the end of a sentence."""
    if isinstance(value, str) and value.startswith("{"):  # as JSONL files hold it
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(value)
            value = parsed if {"text", "answer_start"} <= parsed.keys() else value
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise ValueError("the answers are not {text: [...], answer_start: [...]} of one length")
        return tuple(_answer(str(one), place, context) for one, place in zip(texts, starts, strict=True))
    if value is None or not str(value).strip():
        return ()
    return (_answer(str(value), start, context),)


def _answer(text: str, start: Any, context: str) -> Answer:
    if start is None or start == "":
        places = context.count(text)
        if places != 1:
            how = "does not stand in the context" if not places else f"stands {places} times in the context"
            raise ValueError(f"the answer {_shown(text)} {how}; say where in data.answer_start")
        return Answer(text, context.index(text))
    try:
        place = _offset(start)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the start of the answer, {_shown(str(start))}, is no whole number") from None
    if place < 0 or context[place : place + len(text)] != text:
        raise ValueError(f"the answer {_shown(text)} does not stand at character {place} of the context")
    return Answer(text, place)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
