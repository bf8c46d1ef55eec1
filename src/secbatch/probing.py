"""What a job will cost: a few rows, spread over all that are to be done, are run through its models."""

import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from secbatch.distinct_count import DistinctCount
from secbatch.identity import Identified
from secbatch.sources.shard import Shard
from secbatch.tasks.base import RememberingTask, RemoteTask
from secbatch.tasks.encoder_task import EncoderTask
from secbatch.worker import Enriched, Reused, Work, Worker

ROWS = 64  # of a probe, twice as many at most
ROWS_AT_ONCE = 32
LONGEST_SECONDS = 15.0  # a slow model is measured on fewer rows
WARMING_ROWS = 4


@dataclass(frozen=True)
class Cost:
    """What all that is to be done will cost, about."""

    rows: int  # measured
    loading: float  # seconds
    seconds: float  # of computation
    tokens: float
    padding_share: float  # of all tokens that the models see


@dataclass(frozen=True)
class _Rows:
    """Some rows, their numbers among all that are to be done, and which tasks are to be done for them."""

    numbers: np.ndarray  # int64 [n], ascending; turns of one conversation share theirs
    identified: Identified
    todo: dict[str, np.ndarray]  # task -> bool [n]
    reads: dict[str, np.ndarray]  # task -> uint64 [n]: the same where it reads the same

    def take(self, rows: np.ndarray) -> "_Rows":
        todo = {name: wanted[rows] for name, wanted in self.todo.items()}
        reads = {name: digests[rows] for name, digests in self.reads.items()}
        return _Rows(self.numbers[rows], self.identified.take(rows), todo, reads)


class Sample:
    """Rows at even distances from all that `add` is given, however many come: between ROWS and twice as many."""

    def __init__(self) -> None:
        self._kept: list[_Rows] = []
        self._stride = 1
        self._seen = 0
        self._rows: dict[str, int] = {}  # task -> rows that it is to be done for
        self._different: dict[str, DistinctCount] = {}  # of what it reads in them

    def add(
        self,
        identified: Identified,
        todo: dict[str, np.ndarray],
        reads: dict[str, np.ndarray],
        together: np.ndarray | None = None,
    ) -> None:
        """`todo`: for each task bool [n], the rows it is to be done for; `reads`: uint64 [n], digests of what it reads.

        `together`: int64 [n], ascending: the rows' conversations. They are measured as if all their turns were to be
        done, as a turn without those before it would be too quick; of a long one the first ROWS.
        """
        rows = np.flatnonzero(np.logical_or.reduce(list(todo.values())))
        if not len(rows):
            return
        for name, wanted in todo.items():
            self._rows[name] = self._rows.get(name, 0) + int(wanted.sum())
            self._different.setdefault(name, DistinctCount()).add(reads[name][wanted])
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
            read = {name: digests[rows[taken]] for name, digests in reads.items()}
            self._kept.append(_Rows(numbers[taken], identified.take(rows[taken]), chosen, read))
        while sum(len(kept.numbers) for kept in self._kept) > 2 * ROWS and self._seen > self._stride:
            self._stride *= 2
            thinned = [kept.take(np.flatnonzero(kept.numbers % self._stride == 0)) for kept in self._kept]
            self._kept = [kept for kept in thinned if len(kept.numbers)]

    def rows(self) -> "_Rows | None":
        return _joined(self._kept) if self._kept else None

    def computations(self, name: str, once: bool) -> float:
        """How often a task will be computed, about; `once`: for rows in which it reads the same."""
        return self._different[name]() if once else self._rows[name]


@dataclass
class _Together:
    """Tasks that are computed together, and what that took of the sample."""

    names: list[str]
    at_once: int  # rows of the sample
    remote: bool  # while this machine computes the others
    rows: int = 0
    computations: int = 0
    seconds: float = 0.0
    tokens: int = 0
    padding: int = 0
    times: float = 0.0  # as much is to be computed in all

    def measure(self, worker: Worker, rows: _Rows) -> None:
        begin = time.monotonic()
        enriched = _run(worker, rows, self.names)
        self.seconds += time.monotonic() - begin
        self.rows += len(rows.numbers)
        self.computations += sum(int(rows.todo[name].sum()) for name in self.names)
        self.tokens, self.padding = self.tokens + enriched.tokens, self.padding + enriched.padding


def measure(worker: Worker, sample: Sample) -> Cost | None:
    """Loads the models and runs the sample through them; None when there is nothing to do."""
    rows = sample.rows()
    if rows is None:
        return None
    begin = time.monotonic()
    worker.load()
    loading = time.monotonic() - begin
    once = {name: isinstance(task, RememberingTask) and task.remembers for name, task in worker.tasks.items()}
    warming, rows = _parted(rows, once)
    groups = _together(worker)
    for group in groups:
        _run(worker, warming, group.names)
    _, unit = np.unique(rows.numbers, return_inverse=True)
    for group in groups:
        pieces = min(-(-len(unit) // group.at_once), int(unit[-1]) + 1)
        for piece in range(pieces):  # each of them spread over the whole
            group.measure(worker, rows.take(np.flatnonzero(unit % pieces == piece)))
            if group.seconds > LONGEST_SECONDS:
                break
        group.times = sum(sample.computations(name, once[name]) for name in group.names) / max(group.computations, 1)
    here = sum(group.seconds * group.times for group in groups if not group.remote)
    seconds = max([here, *(group.seconds * group.times for group in groups if group.remote)])
    tokens = sum(group.tokens * group.times for group in groups)
    padding = sum(group.padding * group.times for group in groups)
    return Cost(max(group.rows for group in groups), loading, seconds, tokens, padding / max(padding + tokens, 1))


def _together(worker: Worker) -> list[_Together]:
    """All tasks; those whose encoders have one root share its forwards."""
    found: dict[int, _Together] = {}
    for name, task in worker.tasks.items():
        root = task.encoder.root if isinstance(task, EncoderTask) else task
        # A server that is asked for less than it may be is slower than it can be.
        at_once = max(ROWS_AT_ONCE, 2 * task.asks_at_once) if isinstance(task, RemoteTask) else ROWS_AT_ONCE
        found.setdefault(id(root), _Together([], at_once, isinstance(task, RemoteTask))).names.append(name)
    return list(found.values())


def _parted(rows: _Rows, once: dict[str, bool]) -> tuple[_Rows, _Rows]:
    """Rows to warm up with, and those to measure; what is computed `once` in a run is so here, in one of the two."""
    early = np.arange(len(rows.numbers)) < WARMING_ROWS
    warming, measured = {}, {}
    for name, wanted in rows.todo.items():
        warming[name], measured[name] = wanted & early, wanted
        if once[name]:
            places = np.flatnonzero(wanted)
            first = np.zeros(len(wanted), bool)
            first[places[np.unique(rows.reads[name][places], return_index=True)[1]]] = True
            later = first & ~early
            warming[name], measured[name] = (first & early, later) if later.any() else (first & later, first)
    some = [np.flatnonzero(np.logical_or.reduce(list(todo.values()))) for todo in (warming, measured)]
    return replace(rows, todo=warming).take(some[0]), replace(rows, todo=measured).take(some[1])


def _run(worker: Worker, rows: _Rows, names: list[str]) -> Enriched:
    """Only the tasks `names`, and each for the rows that it is to be done for: elsewhere it stands as null."""
    reused = {}
    for name, task in worker.tasks.items():
        done = np.flatnonzero(~rows.todo[name]) if name in names else np.arange(len(rows.numbers))
        if len(done):
            nulls = {field.name: pa.nulls(len(done), field.type) for field in task.fields}
            reused[name] = Reused(done, pa.table({**nulls, "secbatch_run": pa.nulls(len(done), pa.string())}))
    return worker.finish(worker.compute(worker.encode(Work(rows.identified, reused))))


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
    reads = {name: np.concatenate([piece.reads[name] for piece in pieces]) for name in todo}
    return _Rows(np.concatenate([piece.numbers for piece in pieces]), identified, todo, reads)
