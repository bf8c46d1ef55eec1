"""What each row adds to the counts that a figure is made of, so that a figure of any resample is a sum away."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# [..., k] counts to [...] figures; NaN where the counts leave a figure undefined.
Figure = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Tally:
    """The counts of n rows. Rows that add the same share one entry of `outcomes`: there are few different ones."""

    outcomes: Any  # [d, k] float64: an array, or scipy's sparse one
    rows: np.ndarray  # [n] int64: the outcome of each row

    @classmethod
    def of(cls, outcomes: Sequence[Hashable], count: Callable[[Any], np.ndarray]) -> "Tally":
        """`outcomes`: what came of each row; `count` gives the [k] counts of one, asked once for each different one."""
        different, rows = _numbered(outcomes)
        return cls(np.stack([count(outcome) for outcome in different]).astype(np.float64), rows)

    @classmethod
    def of_few(cls, outcomes: Sequence[Hashable], count: Callable[[Any], Mapping[int, float]], size: int) -> "Tally":
        """As `of`, where nearly all of the `size` counts of an outcome are 0: `count` gives the others by place."""
        from scipy.sparse import csr_array

        different, rows = _numbered(outcomes)
        counts = [count(outcome) for outcome in different]
        values = [value for one in counts for value in one.values()]
        places = [place for one in counts for place in one]
        starts = np.cumsum([0, *map(len, counts)])
        return cls(csr_array((np.array(values, np.float64), places, starts), (len(counts), size)), rows)

    def total(self) -> np.ndarray:
        """[k] the counts of all rows."""
        return np.asarray(np.bincount(self.rows, minlength=self.outcomes.shape[0]) @ self.outcomes)

    def take(self, rows: np.ndarray) -> "Tally":
        """The tally of some rows (indices, or bool [n])."""
        return Tally(self.outcomes, self.rows[rows])

    def figure(self, figure: Figure) -> float:
        """A figure of all rows."""
        return float(figure(self.total()))


def _numbered(outcomes: Sequence[Hashable]) -> tuple[list[Hashable], np.ndarray]:
    """The different outcomes, and [n] int64 which of them each row has."""
    number: dict[Hashable, int] = {}
    rows = np.array([number.setdefault(outcome, len(number)) for outcome in outcomes], np.int64)
    if not number:
        raise ValueError("a tally needs at least one row")
    return list(number), rows


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`, NaN where `below` is 0."""
    result = np.full(np.broadcast(above, below).shape, np.nan)
    return np.divide(above, below, out=result, where=np.broadcast_to(below, result.shape) != 0)
