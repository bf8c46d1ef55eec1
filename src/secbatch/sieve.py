"""Which rows of a shard end the process that works on them: found by bisection, in a process of their own."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from secbatch.errors import ModelError
from secbatch.trial import Death, Trial
from secbatch.worker import Enriched, Work

DEATHS_OF_A_ROW = 2  # alone, before it is left out
OUTSIDE_KILLS = 3  # of a process with one row, before the run gives up
MOST_DEATHS = 400  # in one shard: a model that dies of everything is no matter of rows


@dataclass
class Sifted:
    """What came of the rows of a shard: some end a process, or all are finished."""

    poison: dict[int, str] = field(default_factory=dict)  # row -> how the process ended
    pieces: list[tuple[np.ndarray, Enriched]] = field(default_factory=list)  # rows, ascending, and what they became

    def enriched(self) -> Enriched:
        """All rows in their order; only where there is no poison."""
        rows = np.concatenate([rows for rows, _ in self.pieces])
        order = np.argsort(rows)
        made = [enriched for _, enriched in self.pieces]
        if len(made) == 1:
            return made[0]
        return Enriched(
            pa.concat_tables([one.table for one in made]).take(pa.array(order)),
            np.concatenate([one.rejected for one in made])[order],
            {name: np.concatenate([one.unanswered[name] for one in made])[order] for name in made[0].unanswered},
            np.concatenate([one.computed for one in made])[order],
            sum(one.tokens for one in made),
            sum(one.padding for one in made),
            {name: sum(one.done[name] for one in made) for name in made[0].done},
        )


class Sieve:
    """Tries the rows of one shard, together first and then in halves, until it is known which end a process."""

    def __init__(self, trial: Trial, work: Work, check: Callable[[], None]) -> None:
        self._trial, self._work, self._check = trial, work, check
        self._deaths = 0
        self.sifted = Sifted()

    def sift(self, units: list[np.ndarray]) -> Sifted:
        """`units`: rows that are computed together or not at all (the turns of a conversation)."""
        death = self._try(np.concatenate(units))
        if death:
            self._search(units, death)
        return self.sifted

    def _search(self, units: list[np.ndarray], death: Death) -> None:
        if len(units) == 1:
            self._alone(units[0], death)
            return
        middle = len(units) // 2
        for half in (units[:middle], units[middle:]):
            death_of_half = self._try(np.concatenate(half))
            if death_of_half:
                self._search(half, death_of_half)

    def _alone(self, rows: np.ndarray, death: Death) -> None:
        """Of a conversation it is a turn that does it, which is nothing without the turns before it."""
        passes, dies = 0, len(rows)  # so many first turns
        while dies - passes > 1:
            middle = (passes + dies) // 2
            found = self._try(rows[:middle], keep=False)
            if found:
                dies, death = middle, found
            else:
                passes = middle
        own, outside = int(not death.outside), int(death.outside)
        while own < DEATHS_OF_A_ROW:
            found = self._try(rows[:dies], keep=dies == len(rows))
            if not found:
                if dies < len(rows) and (again := self._try(rows)):
                    self._alone(rows, again)
                return
            own, outside = own + (not found.outside), outside + found.outside
            if outside >= OUTSIDE_KILLS:
                raise ModelError(
                    f"{self._place(rows[dies - 1])}: the process that works on this row was killed from outside "
                    f"{outside} times ({found.how}); if nobody did it, leave the row out of the input"
                )
            death = death if found.outside else found
        self.sifted.poison[int(rows[dies - 1])] = death.how

    def _place(self, row: np.integer) -> str:
        shard = self._work.identified.shard
        return f"Row {shard.row[int(row)].as_py()} of {shard.source[int(row)].as_py()}"

    def _try(self, rows: np.ndarray, keep: bool = True) -> Death | None:
        """How these rows ended a process; None where they are finished, as a piece where `keep`."""
        rows = np.sort(rows)
        death = self._once(rows, keep)
        if death and death.outside:  # it says nothing of the rows: the same once more
            death = self._once(rows, keep)
        return death

    def _once(self, rows: np.ndarray, keep: bool) -> Death | None:
        made = self._trial.run(self._work.take(rows), self._check)
        if isinstance(made, Enriched):
            if keep:
                self.sifted.pieces.append((rows, made))
            return None
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            raise ModelError(
                f"{self._place(rows[0])} and the rows after it have ended {MOST_DEATHS} processes ({made.how}); "
                "the model does not run on this machine"
            )
        return made
