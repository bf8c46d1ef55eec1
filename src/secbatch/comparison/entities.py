"""Evaluation of ner: labelled spans, strict."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from secbatch.comparison.evaluation import Measured
from secbatch.comparison.known_labels import UnknownLabels, unknown_labels
from secbatch.comparison.labelled_rows import LabelledRows
from secbatch.comparison.predictions import Predicted, Progress, predict
from secbatch.evaluation import f_scores
from secbatch.evaluation.spans import SPANS, Span, lenient_f1, span_labels, span_tally
from secbatch.evaluation.tally import Figure
from secbatch.labelled.checks import label_places
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import read_tokens
from secbatch.models.configuration import load_config
from secbatch.models.device import Compute
from secbatch.models.model_kinds import check_head
from secbatch.models.resolve import resolve
from secbatch.tasks.label_names import label_names
from secbatch.tasks.label_scheme import LabelScheme


class Entities(LabelledRows):
    """CoNLL files, or a column of texts and one of spans."""

    name = "ner"
    parts_are = "type"
    headline: tuple[str, ...] = ("f1", "precision", "recall", "f1_macro")
    method = "Strict: a span is right with both ends and its type right; f1 counts all types together."

    def __init__(
        self,
        files: LabelledFiles,
        text: str = "text",
        spans: str = "spans",
        group: str | None = None,
        unknown_labels: UnknownLabels = "refuse",
        limit: int | None = None,
        like: Mapping[str, Any] | None = None,
    ) -> None:
        """`like`: settings of a job's task. Raises InputError for rows or lines that give no example."""
        labelled = read_tokens(files, text, spans, group)
        self._examples = labelled.examples[:limit]
        super().__init__([example.group for example in self._examples], labelled.files, labelled.notices)
        self._unknown, self._like = unknown_labels, dict(like or {})

    @property
    def figures(self) -> Mapping[str, Figure]:
        return SPANS

    def check(self, model: str) -> tuple[str, ...]:
        """Notices on types that the model does not know; raises InputError when they are refused."""
        resolved = resolve(model)
        config = load_config(resolved)
        check_head(resolved, config, "token-classification")
        known = LabelScheme.of(label_names(config, resolved.name), resolved.name).types
        return unknown_labels(label_places(self._examples), known, model, self._unknown)

    def predict(self, model: str, compute: Compute, progress: Progress | None) -> Predicted:
        table = pa.table({"text": [example.text for example in self._examples]})
        return predict(model, {**self._like, "type": "ner", "text": "text"}, table, compute, progress)

    def measure(self, outcomes: Sequence[Predicted]) -> list[Measured]:
        true: list[list[Span]] = [
            [(span.start, span.end, span.label) for span in example.spans] for example in self._examples
        ]
        guesses = [[_spans(row) for row in outcome.columns[""]] for outcome in outcomes]
        labels = span_labels(true, [row for each in guesses for row in each])
        return [self._measure(true, each, labels) for each in guesses]

    def _measure(self, true: list[list[Span]], guesses: list[list[Span]], labels: Sequence[str]) -> Measured:
        tally = span_tally(true, guesses, labels)
        hits, _, misses = f_scores.split(tally.total())
        support = (hits + misses).astype(int).tolist()
        parts = [(label, support[place], f_scores.of_label(place), tally, None) for place, label in enumerate(labels)]
        return Measured(tally, parts, {"lenient_f1": lenient_f1(true, guesses, labels)})


def _spans(row: list[dict[str, Any]] | None) -> list[Span]:
    return [(span["start"], span["end"], span["label"]) for span in row or ()]
