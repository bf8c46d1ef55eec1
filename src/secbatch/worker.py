"""A shard becomes an enriched table: encode (CPU), compute (device), finish (CPU). No files, no ledger, no engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import JobError
from secbatch.identity import Identified
from secbatch.job import Job
from secbatch.run_date import run_dates
from secbatch.store.partitions import misread_partitions
from secbatch.task_keys import in_conversations
from secbatch.tasks.base import Begun, OnItsWay, RemoteTask, Task, TaskColumns, WideTask
from secbatch.tasks.encoder_task import EncoderTask, compute_together, precision_of
from secbatch.tasks.registry import Encoders, build_task
from secbatch.untokenizable_rows import encode_the_others
from secbatch.waiting import wait_until
from secbatch.work_done import part_in_hand, work_in_hand

if TYPE_CHECKING:
    from pathlib import Path

    from secbatch.models.device import Compute
    from secbatch.models.resolved import RemoteModel, ResolvedModel

ROW_FIELDS = (
    pa.field("secbatch_id", pa.string()),
    pa.field("secbatch_source", pa.string()),
    pa.field("secbatch_row", pa.int64()),
    pa.field("secbatch_run", pa.string()),
    pa.field("secbatch_status", pa.string()),
    pa.field("secbatch_error", pa.string()),
)
OF_READERS = ("__filename", "__fragment_index", "__batch_index", "__last_in_fragment")  # pyarrow.dataset's own columns


@dataclass(frozen=True)
class Reused:
    """Rows for which a task is done already, and its columns for these rows."""

    rows: np.ndarray  # int64 [r], ascending
    columns: pa.Table  # r rows


@dataclass(frozen=True)
class Work:
    """Rows of a shard on their way through the stages; each stage adds what it knows."""

    identified: Identified
    reused: dict[str, Reused] = field(default_factory=dict)  # by task; what is not in it is computed
    runs: "pa.Array | None" = None  # string [n]: the run that enriched each row before, where one is known
    errors: dict[int, str] = field(default_factory=dict)  # of rows that are taken over as they were rejected before
    stage: dict[str, Any] = field(default_factory=dict)  # task -> encoded, then computed

    def todo(self, task: str) -> "np.ndarray | None":
        """int64: the rows that `task` is still to be computed for; None for all of them."""
        if task not in self.reused:
            return None
        wanted = np.ones(self.identified.shard.num_rows, dtype=bool)
        wanted[self.reused[task].rows] = False
        return np.flatnonzero(wanted)

    def take(self, rows: np.ndarray) -> "Work":
        """Only the rows at these positions, ascending; before any stage."""
        if len(rows) == self.identified.shard.num_rows:
            return self
        reused = {}
        for name, known in self.reused.items():
            chosen = np.isin(known.rows, rows)
            if chosen.any():
                places = np.searchsorted(rows, known.rows[chosen])
                reused[name] = Reused(places, known.columns.filter(pa.array(chosen)))
        runs = None if self.runs is None else self.runs.take(pa.array(rows))
        errors = {place: self.errors[int(row)] for place, row in enumerate(rows) if int(row) in self.errors}
        return Work(self.identified.take(rows), reused, runs, errors)


@dataclass(frozen=True)
class Enriched:
    """Finished rows of a shard."""

    table: pa.Table
    rejected: np.ndarray  # bool [n]
    unanswered: dict[str, np.ndarray]  # task with conversations -> bool [n]: turns that have got no answer now
    computed: np.ndarray  # bool [n]: a task was computed for the row
    tokens: int
    padding: int
    done: dict[str, int]  # task -> computed rows in which it had something to do, or had done it before


class Worker:
    """Runs every task of a job over shards of one input schema. Cheap to make; `load` brings the weights."""

    def __init__(
        self,
        job: Job,
        schema: pa.Schema,
        models: "dict[str, ResolvedModel | RemoteModel]",
        compute: "Compute",
        run: str,
        scratch: "Path | None" = None,
    ) -> None:
        """`models`: one for each task name. `scratch`: a folder for results of texts that may come again.

        Raises JobError when tasks and input do not fit together.
        """
        encoders = Encoders(scratch)
        self.tasks: dict[str, Task] = {}
        for name, spec in job.tasks.items():
            with _named(name):
                self.tasks[name] = build_task(name, spec, schema, models[name], compute, encoders)
        self.fingerprints = {name: task.fingerprint() for name, task in self.tasks.items()}
        self._run_date = job.output.run_date_column
        self._partition_by = tuple(name for name in job.output.partition_columns if name != self._run_date)
        self._run, self._precision = run, compute.dtype
        fields = [
            *schema.remove_metadata(),
            *(f for task in self.tasks.values() for f in task.fields),
            *ROW_FIELDS,
            *([pa.field(self._run_date, pa.date32())] if self._run_date else []),
        ]
        _refuse_collisions(schema, fields[len(schema) :])
        self.schema = pa.schema(fields)

    @property
    def row_bytes(self) -> int:
        """What the tasks' columns take in a row, as far as that is known beforehand and may be much."""
        return sum(task.row_bytes for task in self.tasks.values() if isinstance(task, WideTask))

    def result_bytes(self, enriched: Enriched) -> int:
        """What the tasks' columns take in these rows."""
        names = [field.name for task in self.tasks.values() for field in task.fields]
        return int(enriched.table.select(names).nbytes)

    @property
    def precisions(self) -> dict[str, str | None]:
        """Task -> the number format that it is computed in; None where others compute it, or nothing is known yet."""
        return {name: precision_of(task, self._precision) for name, task in self.tasks.items()}

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know of the models; complete once they are loaded."""
        return tuple(dict.fromkeys(text for task in self.tasks.values() for text in task.notices))

    def load(self) -> None:
        for name, task in self.tasks.items():
            with _named(name):
                task.load()

    def encode(self, work: Work) -> Work:
        return encode_the_others(self._encoded, work)

    def _encoded(self, work: Work) -> Work:
        shard = work.identified.shard
        usable = np.ones(shard.num_rows, dtype=bool)
        usable[list(shard.errors)] = False
        mask, ids = pa.array(usable), work.identified.ids
        stage = {}
        for name, task in self.tasks.items():
            rows = work.todo(name)
            if rows is None:
                stage[name] = task.encode(shard.table, ids, mask)
            elif len(rows) and (together := in_conversations(task)):
                known = work.reused[name]
                stage[name] = together.encode_after(shard.table, ids, mask, known.rows, known.columns)
            elif len(rows):
                place = pa.array(rows)
                stage[name] = task.encode(shard.table.take(place), ids.take(place), mask.take(place))
        return replace(work, stage=stage)

    def compute(self, work: Work) -> Work:
        sharing: dict[int, dict[str, EncoderTask]] = {}
        remote: dict[str, RemoteTask] = {}
        alone: dict[str, Task] = {}
        for name in work.stage:
            task = self.tasks[name]
            if isinstance(task, RemoteTask):
                remote[name] = task
            elif isinstance(task, EncoderTask):
                sharing.setdefault(id(task.encoder.root), {})[name] = task
            else:
                alone[name] = task
        weight = 1 / max(len(remote) + len(alone) + len(sharing), 1)
        asked: dict[str, Begun] = {}  # first of all: others work on it while this machine does
        for name, task in remote.items():
            with work_in_hand().part(weight).in_hand():
                asked[name] = task.ask(work.stage[name])
        done: dict[str, Any] = dict(asked)
        for name, task in alone.items():
            with part_in_hand(weight):
                done[name] = task.compute(work.stage[name])
        for tasks in sharing.values():
            with part_in_hand(weight):
                done |= compute_together(tasks, work.stage)
        for one in asked.values():
            wait_until(one.begun.is_set)
        return replace(work, stage=done)

    def abandon(self) -> None:
        """Ends what others are asked for, and encoders between two batches: with Interrupted. From any thread."""
        for task in self.tasks.values():
            if isinstance(task, RemoteTask):
                task.abandon()
            elif isinstance(task, EncoderTask):
                task.encoder.abandon()

    def land(self, work: Work) -> Work:
        """Waits for what is still on its way from a GPU or a server; `finish` does, too."""
        if not any(isinstance(value, OnItsWay) for value in work.stage.values()):
            return work
        landed = {name: value.land() if isinstance(value, OnItsWay) else value for name, value in work.stage.items()}
        return replace(work, stage=landed)

    def finish(self, work: Work) -> Enriched:
        work = self.land(work)
        shard = work.identified.shard
        errors = {**work.errors, **shard.errors}
        columns: dict[str, Any] = dict(zip(shard.table.column_names, shard.table.columns, strict=True))
        tokens = padding = 0
        computed = np.zeros(shard.num_rows, dtype=bool)
        unanswered = {name: computed.copy() for name, task in self.tasks.items() if in_conversations(task)}
        for name, task in self.tasks.items():
            rows = work.todo(name)
            added = task.finish(work.stage[name]) if name in work.stage else TaskColumns({})
            if rows is None:
                columns |= added.columns
                rows = np.arange(shard.num_rows)
            else:
                for f in task.fields:
                    columns[f.name] = _scattered(f, work.reused[name], rows, added.columns.get(f.name))
            computed[rows] = True
            tokens, padding = tokens + added.tokens, padding + added.padding
            for place, sentence in added.errors.items():
                position = int(rows[place])
                _note(errors, position, sentence)
            if name in unanswered:
                unanswered[name][rows[list(added.errors)]] = True
        for column in self._partition_by:
            for position, value in misread_partitions(shard.table.column(column), column).items():
                shown = value if len(value) <= 40 else f"{value[:40]}…"
                sentence = (
                    f"Column '{column}' has the value '{shown}', which cannot stand as a partition folder's name; "
                    "it stands as null there."
                )
                _note(errors, position, sentence)
        # A label below its threshold is null, and the scores beside it are not: the fullest column counts.
        done = {
            name: max(_filled(columns[field.name], computed) for field in task.fields)
            for name, task in self.tasks.items()
        }
        n = shard.num_rows
        columns["secbatch_id"] = work.identified.ids
        columns["secbatch_source"] = shard.source
        columns["secbatch_row"] = shard.row
        columns["secbatch_run"] = self._runs(work.runs, computed)
        if self._run_date:
            columns[self._run_date] = run_dates(columns["secbatch_run"])
        columns["secbatch_status"], columns["secbatch_error"] = _outcome(errors, n)
        arrays = [_conform(columns[f.name], f.type) for f in self.schema]
        rejected = np.zeros(n, dtype=bool)
        rejected[list(errors)] = True
        return Enriched(pa.table(arrays, schema=self.schema), rejected, unanswered, computed, tokens, padding, done)

    def _runs(self, before: "pa.Array | None", computed: np.ndarray) -> pa.Array:
        """The run that last enriched each row: this one, unless all of the row was taken over."""
        if before is None:
            return pa.repeat(self._run, len(computed))
        return pc.fill_null(pc.if_else(pa.array(computed), self._run, before), self._run)


def _scattered(field: pa.Field, reused: Reused, rows: np.ndarray, computed: Any) -> pa.Array:
    """A column of reused and, at `rows`, computed values."""
    pieces = [chunk.cast(field.type) for chunk in reused.columns.column(field.name).chunks]
    if computed is not None:
        pieces += computed.chunks if isinstance(computed, pa.ChunkedArray) else [computed]
    place = np.empty(len(rows) + len(reused.rows), np.int64)
    place[reused.rows] = np.arange(len(reused.rows))
    place[rows] = len(reused.rows) + np.arange(len(rows))
    return pa.concat_arrays([_conform(piece, field.type) for piece in pieces]).take(pa.array(place))


def _note(errors: dict[int, str], position: int, sentence: str) -> None:
    """Adds to what is wrong with a row. Tasks that share a forward may say the same of it: once is enough."""
    before = errors.get(position, "")
    if sentence not in before:
        errors[position] = f"{before} {sentence}".lstrip()


def _outcome(errors: dict[int, str], count: int) -> tuple[pa.Array, pa.Array]:
    """`secbatch_status` and `secbatch_error` of so many rows."""
    if not errors:
        return pa.repeat("ok", count), pa.nulls(count, pa.string())
    status = pa.array(["rejected" if row in errors else "ok" for row in range(count)], pa.string())
    return status, pa.array([errors.get(row) for row in range(count)], pa.string())


@contextmanager
def _named(task: str) -> Iterator[None]:
    """What a model refuses of a job's keys is said with the task they belong to."""
    try:
        yield
    except JobError as error:
        key = f"tasks.{task}."
        raise error if str(error).startswith(key) else JobError(f"{key}{error}") from None


def _filled(column: Any, rows: np.ndarray) -> int:
    """How many of `rows` (bool [n]) have a value."""
    return int(np.count_nonzero(np.asarray(column.is_valid()) & rows))


def _conform(column: Any, kind: pa.DataType) -> Any:
    return column if column.type == kind else column.cast(kind)


def _refuse_collisions(schema: pa.Schema, added: list[pa.Field]) -> None:
    for name in schema.names:
        if name in OF_READERS:
            raise JobError(
                f"Input column '{name}' has a name that pyarrow and pandas give to a column of their own when they"
                " read a dataset, and could not be read back; rename it in the input."
            )
    # Without regard to case: DuckDB and Spark fold it.
    taken = {name.casefold(): name for name in schema.names}
    ours: dict[str, str] = {}
    for output in added:
        name = output.name.casefold()
        if name in taken:
            raise JobError(
                f"Input column '{taken[name]}' has the name of the output column '{output.name}'"
                + (
                    ", which each output has; rename it in the input, or leave it out there (a dataset made here"
                    " is input for another job without its secbatch_ columns)."
                    if output in ROW_FIELDS
                    else "; rename the input column or the task."
                )
            )
        if name in ours:
            raise JobError(f"The output would have two columns '{ours[name]}' and '{output.name}'; rename a task.")
        ours[name] = output.name
