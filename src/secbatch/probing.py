"""How fast a job will go: a few rows, spread over all that are to be done, are run through its models."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from secbatch.identity import Identified
from secbatch.sources.shard import Shard
from secbatch.worker import Reused, Work, Worker

ROWS = 64  # of a probe, twice as many at most
ROWS_AT_ONCE = 32
LONGEST_SECONDS = 15.0  # a slow model is measured on fewer rows
WARMING_ROWS = 4


@dataclass(frozen=True)
class Speed:
    """What a row costs on average."""

    rows: int  # measured
    seconds: float  # a row
    tokens: float  # a row
    padding_share: float  # of all tokens that the models see


@dataclass(frozen=True)
class _Rows:
    """Some rows, their numbers among all that are to be done, and which tasks are to be done for them."""

    numbers: np.ndarray  # int64 [n], ascending; turns of one conversation share theirs
    identified: Identified
    todo: dict[str, np.ndarray]  # task -> bool [n]

    def take(self, rows: np.ndarray) -> "_Rows":
        todo = {name: wanted[rows] for name, wanted in self.todo.items()}
        return _Rows(self.numbers[rows], self.identified.take(rows), todo)


class Sample:
    """Rows at even distances from all that `add` is given, however many come: between ROWS and twice as many."""

    def __init__(self) -> None:
        self._kept: list[_Rows] = []
        self._stride = 1
        self._seen = 0

    def add(self, identified: Identified, todo: dict[str, np.ndarray], together: np.ndarray | None = None) -> None:
        """`todo`: for each task bool [n], the rows it is to be done for.

        `together`: int64 [n], ascending: the rows' conversations. They are measured as if all their turns were to be
        done, as a turn without those before it would be too quick; of a long one the first ROWS.
        """
        rows = np.flatnonzero(np.logical_or.reduce(list(todo.values())))
        if not len(rows):
            return
        numbers = np.arange(len(rows))
        if together is not None:
            wanted = np.unique(together[rows])
            rows = np.flatnonzero(np.isin(together, wanted))
            numbers = np.searchsorted(wanted, together[rows])
            first = np.searchsorted(numbers, numbers)  # of the row's conversation
            early = np.arange(len(rows)) - first < ROWS
            rows, numbers = rows[early], numbers[early]
            todo = {name: np.ones(len(together), bool) for name in todo}
        numbers = self._seen + numbers
        self._seen = int(numbers[-1]) + 1
        taken = numbers % self._stride == 0
        if taken.any():
            chosen = {name: flags[rows[taken]] for name, flags in todo.items()}
            self._kept.append(_Rows(numbers[taken], identified.take(rows[taken]), chosen))
        while sum(len(kept.numbers) for kept in self._kept) > 2 * ROWS and self._seen > self._stride:
            self._stride *= 2
            thinned = [kept.take(np.flatnonzero(kept.numbers % self._stride == 0)) for kept in self._kept]
            self._kept = [kept for kept in thinned if len(kept.numbers)]

    def rows(self) -> "_Rows | None":
        return _joined(self._kept) if self._kept else None


def measure(worker: Worker, sample: Sample) -> Speed | None:
    """Loads the models and runs the sample through them; None when there is nothing to do."""
    rows = sample.rows()
    if rows is None:
        return None
    worker.load()
    count = len(rows.numbers)
    worker.finish(worker.compute(worker.encode(_work(worker, rows.take(np.arange(min(count, WARMING_ROWS)))))))
    _, unit = np.unique(rows.numbers, return_inverse=True)
    pieces = min(-(-count // ROWS_AT_ONCE), int(unit[-1]) + 1)
    done = tokens = padding = 0
    begin = time.monotonic()
    for piece in range(pieces):  # each of them spread over the whole
        place = np.flatnonzero(unit % pieces == piece)
        enriched = worker.finish(worker.compute(worker.encode(_work(worker, rows.take(place)))))
        done, tokens, padding = done + len(place), tokens + enriched.tokens, padding + enriched.padding
        if time.monotonic() - begin > LONGEST_SECONDS:
            break
    seconds = time.monotonic() - begin
    return Speed(done, seconds / done, tokens / done, padding / max(padding + tokens, 1))


def _work(worker: Worker, rows: _Rows) -> Work:
    """The rows as work in which a task has only those to do that it will have to do: the others stand as null."""
    reused = {}
    for name, task in worker.tasks.items():
        done = np.flatnonzero(~rows.todo[name])
        if len(done):
            nulls = {field.name: pa.nulls(len(done), field.type) for field in task.fields}
            reused[name] = Reused(done, pa.table({**nulls, "secbatch_run": pa.nulls(len(done), pa.string())}))
    return Work(rows.identified, reused)


def _joined(pieces: list[_Rows]) -> _Rows:
    shards = [piece.identified.shard for piece in pieces]
    errors: dict[int, str] = {}
    start = 0
    for shard in shards:
        errors |= {start + place: text for place, text in shard.errors.items()}
        start += shard.num_rows
    shard = Shard(
        0,
        pa.concat_tables([shard.table for shard in shards]).combine_chunks(),
        pa.concat_arrays([shard.source.cast(pa.string()) for shard in shards]),
        pa.concat_arrays([shard.row for shard in shards]),
        errors,
    )
    known = [piece.identified for piece in pieces]
    identified = Identified(
        shard,
        pa.concat_arrays([one.ids for one in known]),
        0,
        np.concatenate([one.keys for one in known]),
        np.concatenate([one.content for one in known]),
        np.concatenate([one.place for one in known]),
    )
    todo = {name: np.concatenate([piece.todo[name] for piece in pieces]) for name in pieces[0].todo}
    return _Rows(np.concatenate([piece.numbers for piece in pieces]), identified, todo)
