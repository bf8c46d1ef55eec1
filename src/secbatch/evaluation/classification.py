"""Labels of texts: accuracy, F1 in its three averages and by label, confusion.

Figures of one set come from scikit-learn (extra `finetune`); the same figures of counts, for thousands of resamples
at once, from `f_scores`.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secbatch.evaluation import f_scores
from secbatch.evaluation.tally import Figure, Tally, ratio

NONE = "\0none"  # the name of one column more, where scikit-learn wants several; no label can be it


@dataclass(frozen=True)
class LabelFigures:
    """One label against all others."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # rows that have it


@dataclass(frozen=True)
class ClassificationFigures:
    """Shares between 0 and 1. For several labels a row, `accuracy` is the share of rows whose whole set is right."""

    rows: int
    accuracy: float
    f1_micro: float
    f1_macro: float  # over the labels that occur or were predicted
    f1_weighted: float
    by_label: tuple[LabelFigures, ...]  # of those, in alphabetical order
    # [n, 3] int64: true, predicted (places in `by_label`) and how often, of what occurs; None for several labels a row
    confusion: np.ndarray | None


def single_label_figures(true: Sequence[str], predicted: Sequence[str | None]) -> ClassificationFigures:
    """`true` and `predicted`: one label a row; None where nothing was predicted, which counts as wrong."""
    from sklearn.metrics import accuracy_score

    labels = occurring([(label,) for label in true], [() if label is None else (label,) for label in predicted])
    # Numbers: numpy gives each text the room of the longest, and takes no notice of NULs at the end of one.
    place = {label: number for number, label in enumerate(labels)}
    right = [place[label] for label in true]
    guesses = [place[label] if label is not None else len(labels) for label in predicted]
    confusion = _confusion(right, guesses, len(labels))
    return _figures(len(true), float(accuracy_score(right, guesses)), labels, right, guesses, confusion)


def _confusion(true: Sequence[int], predicted: Sequence[int], none: int) -> np.ndarray:
    """[n, 3]; `none` stands for nothing predicted. Of thousands of labels a matrix would be gigabytes of zeros."""
    times = Counter((right, guess) for right, guess in zip(true, predicted, strict=True) if guess != none)
    return np.array([(*cell, often) for cell, often in sorted(times.items())], np.int64).reshape(-1, 3)


def multi_label_figures(true: Sequence[Collection[str]], predicted: Sequence[Collection[str]]) -> ClassificationFigures:
    """`true` and `predicted`: a set of labels a row, which may be empty."""
    from sklearn.metrics import accuracy_score
    from sklearn.preprocessing import MultiLabelBinarizer

    labels = occurring(true, predicted)
    if not labels:  # no row has one, and none was predicted
        return ClassificationFigures(len(true), 1.0, 0.0, 0.0, 0.0, (), None)
    # One column more, always empty: scikit-learn takes a single column for two classes, 0 and 1.
    binarizer = MultiLabelBinarizer(classes=[*labels, NONE], sparse_output=True)
    right, guesses = binarizer.fit_transform(true), binarizer.fit_transform(predicted)
    return _figures(len(true), float(accuracy_score(right, guesses)), labels, right, guesses, None)


def occurring(true: Sequence[Collection[str]], predicted: Sequence[Collection[str]]) -> list[str]:
    """The labels that occur or were predicted, in alphabetical order."""
    return sorted({label for row in (*true, *predicted) for label in row})


def _figures(
    rows: int, accuracy: float, labels: list[str], true: Any, predicted: Any, confusion: np.ndarray | None
) -> ClassificationFigures:
    from sklearn.metrics import precision_recall_fscore_support

    how: dict[str, Any] = {"labels": list(range(len(labels))), "zero_division": 0}
    by_label = precision_recall_fscore_support(true, predicted, **how)
    micro, macro, weighted = (
        float(precision_recall_fscore_support(true, predicted, average=average, **how)[2])
        for average in ("micro", "macro", "weighted")
    )
    each = tuple(
        LabelFigures(label, float(precision), float(recall), float(f1), int(support))
        for label, precision, recall, f1, support in zip(labels, *by_label, strict=True)
    )
    return ClassificationFigures(rows, accuracy, micro, macro, weighted, each, confusion)


def classification_tally(
    true: Sequence[Collection[str]], predicted: Sequence[Collection[str]], labels: Sequence[str]
) -> Tally:
    """Counts of rows with sets of labels (of one, for single-label data): rows, rows all right, then `f_scores`'.

    `labels`: those that count, in order; pairs of models are compared under the same ones.
    """
    place = {label: number for number, label in enumerate(labels)}
    size = len(place)

    def count(outcome: tuple[frozenset[str], frozenset[str]]) -> dict[int, float]:
        right, guesses = outcome
        counts: dict[int, float] = {0: 1, 1: right == guesses}
        for part, chosen in enumerate((right & guesses, guesses - right, right - guesses)):
            counts |= {2 + part * size + place[label]: 1 for label in chosen}
        return counts

    pairs = zip(true, predicted, strict=True)
    return Tally.of_few([(frozenset(right), frozenset(guesses)) for right, guesses in pairs], count, 2 + 3 * size)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of rows that are all right."""
    return ratio(counts[..., 1], counts[..., 0])


CLASSIFICATION: dict[str, Figure] = {
    "accuracy": accuracy,
    "f1_micro": lambda counts: f_scores.f1_micro(counts[..., 2:]),
    "f1_macro": lambda counts: f_scores.f1_macro(counts[..., 2:]),
    "f1_weighted": lambda counts: f_scores.f1_weighted(counts[..., 2:]),
}
