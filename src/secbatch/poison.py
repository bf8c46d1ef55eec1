"""Rows that end the process that works on them: a run that died is followed by one that finds and leaves them out."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from secbatch.row_hash import hexadecimal
from secbatch.sieve import Sieve
from secbatch.store.in_flight import InFlight
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.row_keys import RowKeys
from secbatch.task_keys import conversations_held
from secbatch.trial import Loaded, Trial
from secbatch.worker import Enriched, Work, Worker

if TYPE_CHECKING:
    from secbatch.models.device import Compute

SETTING = "poison"  # of the ledger: task key -> how the process ended


class PoisonRows:
    """The rows that are known to end a process, by what the tasks read of them, kept in the ledger."""

    def __init__(self, ledger: Ledger, retry: bool) -> None:
        """`retry`: those of earlier runs are to be tried again."""
        self._ledger = ledger
        self._stored: dict[str, str] = json.loads(ledger.setting(SETTING) or "{}")
        self._known = {} if retry else dict(self._stored)  # task key -> how the process ended
        firsts = [int.from_bytes(bytes.fromhex(key)[:8], "little") for key in self._stored] if retry else []
        self.tried_again = np.array(firsts, np.uint64)

    def errors(self, keys: RowKeys) -> dict[int, str]:
        """A sentence for each row that must not be computed."""
        if not self._known:
            return {}
        known = {task: [self._known.get(key) for key in hexadecimal(done)] for task, done in keys.done.items()}
        rows = zip(*known.values(), strict=True)
        asked = np.logical_or.reduce([done.any(axis=1) for done in keys.done.values()])  # others are rejected already
        return {
            place: f"This row ends the process that works on it ({hows[0]}), twice when it was tried alone; it was "
            "left out."
            for place, hows in enumerate(rows)
            if all(hows) and asked[place]
        }

    def add(self, keys: RowKeys, how: str) -> None:
        for done in keys.done.values():
            found = dict.fromkeys(hexadecimal(done), how)
            self._known |= found
            self._stored |= found
        self._ledger.fix_setting(SETTING, json.dumps(self._stored))

    def passed(self, keys: RowKeys) -> None:
        """These rows are done: what was known of them is so no longer."""
        again = {key for done in keys.done.values() for key in hexadecimal(done)} & self._stored.keys()
        if again:
            self._stored = {key: how for key, how in self._stored.items() if key not in again}
            self._ledger.fix_setting(SETTING, json.dumps(self._stored))


class Poison:
    """Watches over the rows of one run. Use as a context manager, around all that computes.

    Rows that were in computation when an earlier process died are done in a process of their own. Where nothing has
    died, this costs a small file for each shard.
    """

    def __init__(
        self,
        layout: Layout,
        ledger: Ledger,
        worker: Worker,
        compute: "Compute",
        retry: bool,
        notice: Callable[[str], None],
    ) -> None:
        """`worker`: without its weights. `retry`: rows that were left out before are tried again."""
        self._in_flight = InFlight(layout.in_flight)
        self._rows = PoisonRows(ledger, retry)
        self._ledger, self._worker, self._compute, self._notice = ledger, worker, compute, notice
        self._trial: Trial | None = None
        self.errors, self.start, self.done = self._rows.errors, self._in_flight.start, self._in_flight.done

    def __enter__(self) -> "Poison":
        self._in_flight.__enter__()
        if len(self._in_flight.suspects):
            self._notice(
                "The run before this one was killed while it worked on some rows; these are done in a process of "
                "their own, to find whether one of them did it."
            )
        self._in_flight.suspects = np.concatenate([self._in_flight.suspects, self._rows.tried_again])
        if len(self._in_flight.suspects):
            self._trial = Trial(self._worker, self._compute.device, self._compute.dtype)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._trial:
            self._trial.close()
        if self._ledger.in_place():  # the marks of another run are its own
            self._in_flight.__exit__(*raised)

    @property
    def loaded(self) -> Loaded | None:
        """What the processes tell of the models, once `sift` has tried rows."""
        return self._trial.loaded if self._trial else None

    def suspected(self, keys: RowKeys) -> bool:
        """Whether one of these rows may end the process: then they are for `sift`."""
        return self._trial is not None and self._in_flight.suspected(keys)

    def sift(self, work: Work, keys: RowKeys, check: Callable[[], None]) -> Enriched | None:
        """The rows of `work` finished; None when some were found that end a process, which `errors` names from now on.

        `check()` is called now and then and may raise, to stop the run.
        """
        assert self._trial is not None
        sifted = Sieve(self._trial, work, check).sift(self._units(work))
        if not sifted.poison:
            self._rows.passed(keys)
            return sifted.enriched()
        shard = work.identified.shard
        for row, how in sifted.poison.items():
            self._rows.add(keys.take(np.array([row])), how)
            place = f"Row {shard.row[row].as_py()} of {shard.source[row].as_py()}"
            self._notice(f"{place} ends the process that works on it ({how}); it is rejected.")
        return None

    def _units(self, work: Work) -> list[np.ndarray]:
        """Rows that go together: the turns of a conversation."""
        rows = np.arange(work.identified.shard.num_rows)
        numbers = conversations_held(self._worker.tasks, work.identified.shard.table)
        return np.split(rows, len(rows) if numbers is None else np.flatnonzero(np.diff(numbers)) + 1)
