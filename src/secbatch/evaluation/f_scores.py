"""Precision, recall and F1 from counts. Layout of the counts: hits [L], then false alarms [L], then misses [L]."""

from collections.abc import Callable

import numpy as np

from secbatch.evaluation.tally import Figure, ratio


def split(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[..., 3 L] to true positives, false positives and false negatives, [..., L] each."""
    size = counts.shape[-1] // 3
    return counts[..., :size], counts[..., size : 2 * size], counts[..., 2 * size :]


def f1_by_label(counts: np.ndarray) -> np.ndarray:
    """[..., L]; NaN for a label that neither occurs nor was predicted."""
    hits, alarms, misses = split(counts)
    return ratio(2 * hits, 2 * hits + alarms + misses)


def precision_by_label(counts: np.ndarray) -> np.ndarray:
    """[..., L]; NaN for a label that was never predicted."""
    hits, alarms, _ = split(counts)
    return ratio(hits, hits + alarms)


def recall_by_label(counts: np.ndarray) -> np.ndarray:
    """[..., L]; NaN for a label that never occurs."""
    hits, _, misses = split(counts)
    return ratio(hits, hits + misses)


def pooled(counts: np.ndarray) -> np.ndarray:
    """The counts of all labels together, [..., 3]."""
    return np.stack([part.sum(axis=-1) for part in split(counts)], axis=-1)


def f1_micro(counts: np.ndarray) -> np.ndarray:
    """F1 of all labels' counts together."""
    return f1_by_label(pooled(counts))[..., 0]


def f1_macro(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of the labels that occur or were predicted, as scikit-learn takes it when no labels are named."""
    by_label = f1_by_label(counts)
    known = np.isfinite(by_label)
    return ratio(np.where(known, by_label, 0.0).sum(axis=-1), known.sum(axis=-1))


def f1_weighted(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of the labels, each weighted by how often it occurs."""
    hits, _, misses = split(counts)
    by_label = np.nan_to_num(f1_by_label(counts))
    return ratio((by_label * (hits + misses)).sum(axis=-1), (hits + misses).sum(axis=-1))


def of_label(place: int, skip: int = 0) -> dict[str, Figure]:
    """F1, precision and recall of one label; `skip`: how many other counts stand before those of this layout."""

    def one(by_label: Callable[[np.ndarray], np.ndarray]) -> Figure:
        def figure(counts: np.ndarray) -> np.ndarray:
            of_it = np.stack([part[..., place] for part in split(counts[..., skip:])], axis=-1)
            return by_label(of_it)[..., 0]

        return figure

    return {"f1": one(f1_by_label), "precision": one(precision_by_label), "recall": one(recall_by_label)}
