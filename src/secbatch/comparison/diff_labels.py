"""Labels that two models give to texts."""

import numpy as np

from secbatch.comparison.found import EXAMPLES, Example, Found, changes_of, shares_of
from secbatch.comparison.known_labels import known_to_one_alone
from secbatch.comparison.predictions import Predicted
from secbatch.comparison.sample import Sample
from secbatch.errors import ModelError
from secbatch.evaluation.bootstrap import Resampling
from secbatch.evaluation.tally import Figure, Tally, ratio
from secbatch.models.configuration import load_config
from secbatch.tasks.label_names import label_names


def different_labels(first: Predicted, second: Predicted, sample: Sample, seed: int) -> Found:
    """Labels: agreement, Cohen's kappa, and the shift of the labels' shares (total variation distance)."""
    several = "_labels" in first.columns and "_labels" in second.columns

    def labels(one: Predicted) -> list[str | None]:
        if several:
            return [None if row is None else ", ".join(sorted(row)) or "(none)" for row in one.columns["_labels"]]
        return [
            label if label is not None else None if score is None else "(none)"
            for label, score in zip(one.columns[""], one.columns["_score"], strict=True)
        ]

    both = [
        (row, a, b)
        for row, (a, b) in enumerate(zip(labels(first), labels(second), strict=True))
        if a is not None and b is not None
    ]
    if not both:
        raise ModelError("no row of the sample was labelled by both models")
    names = sorted({label for _, a, b in both for label in (a, b)})
    place = {label: number for number, label in enumerate(names)}
    size = len(names)

    def count(outcome: tuple[str, str]) -> np.ndarray:
        counts = np.zeros(2 + 2 * size)
        counts[0], counts[1] = 1, outcome[0] == outcome[1]
        counts[2 + place[outcome[0]]] = counts[2 + size + place[outcome[1]]] = 1
        return counts

    pairs = [(a, b) for _, a, b in both]
    figures: dict[str, Figure] = {
        "agreement": lambda counts: ratio(counts[..., 1], counts[..., 0]),
        "kappa": lambda counts: _kappa(counts, size),
        "drift_of_shares": lambda counts: _drift(counts, size),
    }
    scores = [np.array([score or 0.0 for score in one.columns["_score"]]) for one in (first, second)]
    differing = sorted(
        (row for row, a, b in both if a != b), key=lambda row: -min(scores[0][row], scores[1][row])
    )  # where both are sure
    of_row = {row: (a, b) for row, a, b in both}
    examples = [
        Example(
            sample.places[row],
            sample.texts[row],
            *(f"{label} ({score[row]:.2f})" for label, score in zip(of_row[row], scores, strict=True)),
        )
        for row in differing[:EXAMPLES]
    ]
    tally = Tally.of(pairs, count)
    intervals = Resampling(len(pairs), seed=seed).intervals(figures, tally)
    names_of = [(one.model.name, label_names(load_config(one.model), one.model.name)) for one in (first, second)]
    notices = known_to_one_alone(*names_of)
    return Found("rows", len(pairs), intervals, shares_of(pairs), changes_of(pairs), examples, notices)


def _kappa(counts: np.ndarray, size: int) -> np.ndarray:
    """Cohen's kappa: agreement beyond what the shares alone would give (J. Cohen, 1960)."""
    rows = counts[..., 0]
    observed = ratio(counts[..., 1], rows)
    chance = ratio((counts[..., 2 : 2 + size] * counts[..., 2 + size :]).sum(axis=-1), rows**2)
    return ratio(observed - chance, 1 - chance)


def _drift(counts: np.ndarray, size: int) -> np.ndarray:
    """Total variation distance of the shares: the part of the rows that would have to change their label."""
    moved = np.abs(counts[..., 2 : 2 + size] - counts[..., 2 + size :]).sum(axis=-1)
    return ratio(moved, 2 * counts[..., 0])
