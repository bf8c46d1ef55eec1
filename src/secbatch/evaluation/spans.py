"""Labelled spans (named entities): strict F1, where a span counts only with both ends and its label right.

As the CoNLL shared tasks count (E. Tjong Kim Sang, F. De Meulder, 2003). A span is (start, end, label), end
exclusive, in characters or words. Spans of a row are a set: one predicted twice counts once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from secbatch.evaluation import f_scores
from secbatch.evaluation.classification import LabelFigures
from secbatch.evaluation.tally import Figure, Tally

Span = tuple[int, int, str]
LENIENT = {"exact": "exact", "partial": "partial", "ent_type": "type"}  # nervaluate's names -> ours


@dataclass(frozen=True)
class SpanFigures:
    """Shares between 0 and 1; 0 where nothing could be counted, as is the custom."""

    rows: int
    precision: float
    recall: float
    f1: float  # micro average, strict
    f1_macro: float  # mean over the labels that occur or were predicted, strict
    by_label: tuple[LabelFigures, ...]  # strict; support: spans in the data


def span_figures(true: Sequence[Collection[Span]], predicted: Sequence[Collection[Span]]) -> SpanFigures:
    """`true` and `predicted`: the spans of each row. Raises ValueError where there are none."""
    labels = span_labels(true, predicted)
    if not true:
        raise ValueError("there are no rows to evaluate")
    counts = span_tally(true, predicted, labels).total()
    hits, _, misses = f_scores.split(counts)
    parts = (f_scores.precision_by_label(counts), f_scores.recall_by_label(counts), f_scores.f1_by_label(counts))
    each = tuple(
        LabelFigures(label, float(precision), float(recall), float(f1), int(support))
        for label, precision, recall, f1, support in zip(labels, *map(np.nan_to_num, parts), hits + misses, strict=True)
    )
    pooled = f_scores.pooled(counts)
    precision, recall, f1 = (
        float(np.nan_to_num(part(pooled))[0])
        for part in (f_scores.precision_by_label, f_scores.recall_by_label, f_scores.f1_by_label)
    )
    macro = float(np.nan_to_num(f_scores.f1_macro(counts)))
    return SpanFigures(len(true), precision, recall, f1, macro, each)


def span_labels(true: Sequence[Collection[Span]], predicted: Sequence[Collection[Span]]) -> list[str]:
    """The labels that occur or were predicted, in alphabetical order."""
    return sorted({label for row in (*true, *predicted) for _, _, label in row})


def lenient_f1(
    true: Sequence[Collection[Span]], predicted: Sequence[Collection[Span]], labels: Sequence[str]
) -> dict[str, float]:
    """exact: both ends right, any label; partial: overlaps count half; type: label right. `labels`: all that occur.

    They are nervaluate's (extra `finetune`), which looks at each pair of a row's spans.
    """
    from nervaluate.evaluator import Evaluator

    if not labels:
        return dict.fromkeys(LENIENT.values(), 0.0)

    def entities(rows: Sequence[Collection[Span]]) -> list[list[dict[str, str | int]]]:
        # nervaluate's ends are inclusive
        return [
            [{"label": label, "start": start, "end": end - 1} for start, end, label in sorted(set(row))] for row in rows
        ]

    overall = Evaluator(entities(true), entities(predicted), tags=list(labels), loader="dict").evaluate()["overall"]
    return {ours: float(overall[theirs].f1) for theirs, ours in LENIENT.items()}


def span_tally(true: Sequence[Collection[Span]], predicted: Sequence[Collection[Span]], labels: Sequence[str]) -> Tally:
    """Strict counts as `f_scores` has them; pairs of models are compared under the same `labels`."""
    place = {label: number for number, label in enumerate(labels)}
    size = len(place)

    def outcome(right: Collection[Span], guesses: Collection[Span]) -> tuple[tuple[int, int], ...]:
        """(part, label) and how often, for hits, false alarms and misses: the same for many rows."""
        one, other = set(right), set(guesses)
        parts = (one & other, other - one, one - other)
        return tuple(sorted((part, place[label]) for part, chosen in enumerate(parts) for _, _, label in chosen))

    def count(found: tuple[tuple[int, int], ...]) -> np.ndarray:
        counts = np.zeros(3 * size)
        for part, label in found:
            counts[part * size + label] += 1
        return counts

    pairs = zip(true, predicted, strict=True)
    return Tally.of([outcome(right, guesses) for right, guesses in pairs], count)


SPANS: dict[str, Figure] = {
    "f1": f_scores.f1_micro,
    "f1_macro": f_scores.f1_macro,
    "precision": lambda counts: f_scores.precision_by_label(f_scores.pooled(counts))[..., 0],
    "recall": lambda counts: f_scores.recall_by_label(f_scores.pooled(counts))[..., 0],
}
