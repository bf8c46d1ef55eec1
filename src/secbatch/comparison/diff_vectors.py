"""Vectors that two models make of texts."""

import numpy as np

from secbatch.comparison.found import EXAMPLES, Example, Found
from secbatch.comparison.predictions import Predicted
from secbatch.comparison.sample import Sample
from secbatch.errors import ModelError
from secbatch.evaluation.bootstrap import Interval, Resampling
from secbatch.evaluation.tally import Figure, Tally, ratio

NEIGHBOURS = 10
MOST_COMPARED = 2000  # texts of which each is compared with each other


def different_vectors(first: Predicted, second: Predicted, sample: Sample, seed: int) -> Found:
    """Vectors: whether both models find the same texts alike, and, in spaces of one width, how far a text has moved."""
    rows = [
        row
        for row, pair in enumerate(zip(first.columns[""], second.columns[""], strict=True))
        if pair[0] is not None and pair[1] is not None
    ]
    if len(rows) < 3:
        raise ModelError("fewer than three rows of the sample were embedded by both models")
    whole = [_unit(np.array([one.columns[""][row] for row in rows], np.float64)) for one in (first, second)]
    # Each text is compared with each other: some are enough, and all of a large sample would fill the memory.
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_COMPARED)).astype(np.int64))
    alike = [vectors[chosen] @ vectors[chosen].T for vectors in whole]
    above = np.triu_indices(len(chosen), 1)
    count = min(NEIGHBOURS, len(chosen) - 1)
    nearest = [_nearest(one, count) for one in alike]
    shared = np.array([len(set(a) & set(b)) / count for a, b in zip(*(one.tolist() for one in nearest), strict=True)])
    figures: dict[str, Interval] = {
        f"same_neighbours@{count}": _mean(shared, seed),
        "correlation_of_similarities": Interval(_correlation(alike[0][above], alike[1][above])),
    }
    notices: list[str] = []
    if whole[0].shape[1] == whole[1].shape[1]:
        cosine = (whole[0] * whole[1]).sum(axis=1)
        figures["cosine_mean"] = _mean(cosine, seed)
        figures |= {f"cosine_{name}": Interval(float(np.quantile(cosine, at))) for name, at in _QUANTILES.items()}
    else:
        notices.append(
            f"vectors of {first.model.name} have {whole[0].shape[1]} numbers and those of {second.model.name} "
            f"{whole[1].shape[1]}: no cosines between them"
        )
    # Those whose nearest text is another one, and whose surroundings have changed most.
    moved = np.flatnonzero(nearest[0][:, 0] != nearest[1][:, 0])
    order = moved[np.argsort(shared[moved], kind="stable")][:EXAMPLES].tolist()
    examples = [
        Example(
            sample.places[rows[chosen[place]]],
            sample.texts[rows[chosen[place]]],
            *(f"nearest: {sample.texts[rows[chosen[one[place, 0]]]]}" for one in nearest),
        )
        for place in order
    ]
    return Found("rows", len(rows), figures, (), (), examples, notices)


_QUANTILES = {"5%": 0.05, "median": 0.5, "95%": 0.95}


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _nearest(alike: np.ndarray, count: int) -> np.ndarray:
    """[n, count] the rows that are most like each row, the nearest first, itself left out."""
    others = alike.copy()
    np.fill_diagonal(others, -np.inf)
    return np.argsort(-others, axis=1, kind="stable")[:, :count]


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _mean(values: np.ndarray, seed: int) -> Interval:
    outcomes = np.stack([np.ones(len(values)), values], axis=1)
    tally = Tally(outcomes, np.arange(len(values)))
    figures: dict[str, Figure] = {"mean": lambda counts: ratio(counts[..., 1], counts[..., 0])}
    return Resampling(len(values), seed=seed).intervals(figures, tally)["mean"]
