"""Evaluation of classify: the label of each text, one or several."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from secbatch.comparison.evaluation import Measured
from secbatch.comparison.known_labels import UnknownLabels, unknown_labels
from secbatch.comparison.labelled_rows import LabelledRows
from secbatch.comparison.predictions import Predicted, Progress, predict
from secbatch.evaluation import f_scores
from secbatch.evaluation.classification import (
    CLASSIFICATION,
    ClassificationFigures,
    classification_tally,
    multi_label_figures,
    occurring,
    single_label_figures,
)
from secbatch.evaluation.tally import Figure
from secbatch.labelled.checks import label_places
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import is_multi_label, read_classification
from secbatch.models.configuration import load_config
from secbatch.models.device import Compute
from secbatch.models.model_kinds import check_head
from secbatch.models.resolve import resolve
from secbatch.tasks.label_names import label_names

LARGEST_MATRIX = 200  # labels: beyond, confusion is told by its cells, as a matrix would be larger than all else


class Classification(LabelledRows):
    """A column of texts and one of labels; lists of labels, or a delimiter, make it multi-label."""

    name = "classify"
    parts_are = "label"
    headline: tuple[str, ...] = ("accuracy", "f1_micro", "f1_macro", "f1_weighted")

    def __init__(
        self,
        files: LabelledFiles,
        text: str,
        label: str,
        label_delimiter: str | None = None,
        group: str | None = None,
        threshold: float | None = None,
        unknown_labels: UnknownLabels = "refuse",
        limit: int | None = None,
        like: Mapping[str, Any] | None = None,
    ) -> None:
        """`like`: settings of a job's task. Raises InputError for rows that give no example."""
        labelled = read_classification(files, text, label, label_delimiter, group)
        self._examples = labelled.examples[:limit]
        super().__init__([example.group for example in self._examples], labelled.files, labelled.notices)
        self._several = is_multi_label(files, label, label_delimiter)
        self._threshold, self._unknown, self._like = threshold, unknown_labels, dict(like or {})
        right = "their whole set of labels" if self._several else "their label"
        self.method = f"accuracy: rows with {right} right; f1_macro: mean over the labels that occur or were predicted."

    @property
    def figures(self) -> Mapping[str, Figure]:
        return CLASSIFICATION

    def check(self, model: str) -> tuple[str, ...]:
        """Notices on labels that the model does not know; raises InputError when they are refused."""
        if self._like.get("labels"):  # zero-shot: by a template's mask
            return unknown_labels(label_places(self._examples), list(self._like["labels"]), model, self._unknown)
        resolved = resolve(model)
        config = load_config(resolved)
        check_head(resolved, config, "sequence-classification")
        known = label_names(config, resolved.name)
        return unknown_labels(label_places(self._examples), known, model, self._unknown)

    def predict(self, model: str, compute: Compute, progress: Progress | None) -> Predicted:
        table = pa.table({"text": [example.text for example in self._examples]})
        settings: dict[str, Any] = {**self._like, "type": "classify", "text": "text", "scores": "best"}
        if self._threshold is not None:
            settings["threshold"] = self._threshold
        return predict(model, settings, table, compute, progress)

    def _guesses(self, outcome: Predicted) -> list[tuple[str, ...]]:
        if self._several and "_labels" in outcome.columns:
            return [tuple(labels or ()) for labels in outcome.columns["_labels"]]
        return [() if label is None else (label,) for label in outcome.columns[""]]

    def measure(self, outcomes: Sequence[Predicted]) -> list[Measured]:
        true = [example.labels for example in self._examples]
        guesses = [self._guesses(outcome) for outcome in outcomes]
        labels = occurring(true, [row for each in guesses for row in each])
        return [self._measure(true, each, labels) for each in guesses]

    def _measure(
        self, true: Sequence[tuple[str, ...]], guesses: list[tuple[str, ...]], labels: Sequence[str]
    ) -> Measured:
        tally = classification_tally(true, guesses, labels)
        hits, _, misses = f_scores.split(tally.total()[2:])
        support = (hits + misses).astype(int).tolist()
        parts = [
            (label, support[place], f_scores.of_label(place, skip=2), tally, None) for place, label in enumerate(labels)
        ]
        return Measured(tally, parts, self._more(true, guesses))

    def _more(self, true: Sequence[tuple[str, ...]], guesses: list[tuple[str, ...]]) -> dict[str, Any]:
        figures: ClassificationFigures
        if self._several:
            figures = multi_label_figures(true, guesses)
        else:
            figures = single_label_figures([label for (label,) in true], [row[0] if row else None for row in guesses])
        if figures.confusion is None:
            return {}
        names = [one.label for one in figures.by_label]
        if len(names) > LARGEST_MATRIX:
            return {"confusion": {"labels": names, "cells": figures.confusion.tolist()}}
        matrix = np.zeros((len(names), len(names)), np.int64)
        matrix[figures.confusion[:, 0], figures.confusion[:, 1]] = figures.confusion[:, 2]
        return {"confusion": {"labels": names, "true_by_predicted": matrix.tolist()}}
