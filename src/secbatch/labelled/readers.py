"""Labelled files to examples, one reader for each kind of task."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from secbatch.errors import InputError
from secbatch.labelled.cells import answers_in, spans_in, words_of
from secbatch.labelled.conll import is_conll, read_conll
from secbatch.labelled.examples import (
    Labelled,
    PairExample,
    QuestionExample,
    TextExample,
    TokenExample,
)
from secbatch.labelled.files import LabelledFiles, judge
from secbatch.labelled.tables import LabelledTable, read_table

ANSWER_START = "answer_start"  # the column that may be absent


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
    examples = []
    for row, place in enumerate(rows.places):
        body = texts[row]
        if body is None:
            continue
        if group is not None and groups[row] is None:
            rows.reject(row, f"the group ({group}) is missing")
        else:
            examples.append(TextExample(body, (), groups[row], place))
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
            found = spans_in(values[row], body)
        except ValueError as error:
            rows.reject(row, f"the spans ({spans}) {error}")
            continue
        examples.append(TokenExample(body, words_of(body, found), found, groups[row], place))
    return _labelled(rows, files, examples)


def read_questions(
    files: LabelledFiles,
    question: str = "question",
    context: str = "context",
    answer: str = "answer",
    answer_start: str | None = ANSWER_START,
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
    elif answer_start not in (None, ANSWER_START):  # nobody would name a column that is to be absent
        rows.check(str(answer_start), "data.answer_start")
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
            found = answers_in(answers[row], starts[row], body)
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
        return [None if value is None else _distinct(value) for value in rows.lists(label, "data.label")]
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
    stripped = (_written(label).strip() for label in labels if label is not None)
    return tuple(dict.fromkeys(label for label in stripped if label))


def _written(label: Any) -> str:
    """A value of a JSON list as a column of such values has it: true, and 2 for 2.0."""
    if isinstance(label, str):
        return label
    if isinstance(label, float) and not math.isfinite(label):
        return ""
    return json.dumps(int(label) if isinstance(label, float) and label.is_integer() else label)
