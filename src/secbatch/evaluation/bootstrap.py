"""How far a figure would move on another sample of the same kind: the percentile bootstrap.

Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Rows that belong together (the
sentences of a document) are drawn together, as they are no independent observations: the cluster bootstrap. Two
models are compared on the same draws: the paired bootstrap (T. Berg-Kirkpatrick et al., EMNLP 2012).
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from secbatch.evaluation.tally import Figure, Tally

Name = TypeVar("Name", bound=Hashable)
SAMPLES = 1000
CONFIDENCE = 0.95
_DRAWN_AT_ONCE = 4_000_000  # units drawn in one array


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval; None where it is undefined (no such label, a single group)."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Resampling:
    """Draws of n rows, or of whole groups of them, with replacement. The same seed draws the same, for any model."""

    def __init__(
        self,
        rows: int,
        groups: Sequence[Hashable] | None = None,
        samples: int = SAMPLES,
        seed: int = 0,
    ) -> None:
        """`groups`: one value for each row; rows with the same value are drawn together."""
        if groups is not None and len(groups) != rows:
            raise ValueError(f"{len(groups)} groups for {rows} rows")
        self.samples, self.seed = samples, seed
        self._group_of_row: np.ndarray | None = None
        self.units = rows
        if groups is not None:
            number: dict[Hashable, int] = {}
            self._group_of_row = np.array([number.setdefault(group, len(number)) for group in groups], np.int64)
            self.units = len(number)

    def totals(self, tally: Tally) -> np.ndarray:
        """[samples, k] the counts of each draw."""
        outcomes, of_unit = tally.outcomes, tally.rows
        if self._group_of_row is not None:
            outcomes, of_unit = self._group_totals(tally), np.arange(self.units)
        totals = [np.empty((0, outcomes.shape[1]))]
        different = outcomes.shape[0]
        for drawn in self._draws(different):  # [c, units]
            place = of_unit[drawn] + np.arange(len(drawn))[:, None] * different
            times = np.bincount(place.ravel(), minlength=len(drawn) * different)
            totals.append(times.reshape(len(drawn), -1) @ outcomes)
        return np.concatenate(totals)

    def _draws(self, outcomes: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(self.seed)
        at_once = max(1, _DRAWN_AT_ONCE // max(self.units, outcomes))
        for first in range(0, self.samples, at_once):
            yield generator.integers(0, self.units, (min(at_once, self.samples - first), self.units))

    def _group_totals(self, tally: Tally) -> Any:
        """[units, k] as `tally.outcomes`: an array, or a sparse one."""
        assert self._group_of_row is not None
        pairs, times = np.unique(np.stack([self._group_of_row, tally.rows]), axis=1, return_counts=True)
        if not isinstance(tally.outcomes, np.ndarray):
            from scipy.sparse import csr_array

            return csr_array((times, (pairs[0], pairs[1])), (self.units, tally.outcomes.shape[0])) @ tally.outcomes
        totals = np.zeros((self.units, tally.outcomes.shape[1]))
        np.add.at(totals, pairs[0], tally.outcomes[pairs[1]] * times[:, None])
        return totals

    def intervals(self, figures: Mapping[Name, Figure], tally: Tally) -> dict[Name, Interval]:
        """Each figure of all rows, and where it lies in the middle `confidence` of the draws."""
        if not figures:
            return {}
        total, totals = tally.total(), self.totals(tally)
        return {name: self._interval(float(figure(total)), figure(totals)) for name, figure in figures.items()}

    def differences(self, figures: Mapping[Name, Figure], first: Tally, second: Tally) -> dict[Name, Interval]:
        """How much higher each figure of `second` is than that of `first`, draw by draw on the same rows."""
        one, other = (tally.total() for tally in (first, second))
        drawn, other_drawn = (self.totals(tally) for tally in (first, second))
        return {
            name: self._interval(float(figure(other) - figure(one)), figure(other_drawn) - figure(drawn))
            for name, figure in figures.items()
        }

    def _interval(self, value: float, drawn: np.ndarray) -> Interval:
        drawn = drawn[np.isfinite(drawn)]
        if not np.isfinite(value):
            return Interval(None)
        if self.units < 2 or not len(drawn):  # one unit, drawn again and again, is always itself
            return Interval(value)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(value, float(low), float(high))
