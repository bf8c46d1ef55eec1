"""Masked words of two models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secbatch.comparison.found import EXAMPLES, Example, Found, changes_of, shares_of
from secbatch.comparison.predictions import Predicted
from secbatch.comparison.sample import Sample
from secbatch.errors import ModelError
from secbatch.evaluation.bootstrap import Resampling
from secbatch.evaluation.tally import Figure, Tally, ratio

TOP_K = 10


def different_words(first: Predicted, second: Predicted, sample: Sample, seed: int) -> Found:
    """Masks: the best words of both, and how many of the first ten they share, case aside."""
    pairs = []  # row, best words of each
    for row, (one, other) in enumerate(zip(first.columns["_predictions"], second.columns["_predictions"], strict=True)):
        for mine, yours in zip(one or (), other or (), strict=False):
            if mine and yours:
                pairs.append((row, _first_words(mine), _first_words(yours)))
    if not pairs:
        raise ModelError("no <mask> of the sample was predicted by both models")
    outcomes = [(a[0] == b[0], len(set(a) & set(b)) / min(len(a), len(b))) for _, a, b in pairs]
    tally = Tally.of(outcomes, lambda outcome: np.array([1.0, *outcome]))
    figures: dict[str, Figure] = {
        "same_best_word": lambda counts: ratio(counts[..., 1], counts[..., 0]),
        f"overlap@{TOP_K}": lambda counts: ratio(counts[..., 2], counts[..., 0]),
    }
    order = np.argsort([share for _, share in outcomes], kind="stable")
    least = {pairs[place][0]: place for place in order[::-1].tolist()}  # of each row, the mask with most change
    examples = [
        Example(sample.places[row], sample.texts[row], *(" | ".join(words[:5]) for words in pairs[place][1:]))
        for row, place in sorted(least.items(), key=lambda one: (outcomes[one[1]][1], one[0]))[:EXAMPLES]
    ]
    best = [(a[0], b[0]) for _, a, b in pairs]
    rows = [row for row, _, _ in pairs]
    return Found(
        "masks",
        len(pairs),
        Resampling(len(pairs), rows, seed=seed).intervals(figures, tally),
        shares_of(best),
        changes_of(best),
        examples,
    )


def _first_words(predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(word["token"]).casefold() for word in predictions))
