"""A shard becomes an enriched table: encode (CPU), compute (device), finish (CPU). No files, no ledger, no engine."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from secbatch.errors import JobError
from secbatch.identity import Identified
from secbatch.job import Job
from secbatch.store.parts import misread_partitions
from secbatch.tasks.base import Task, TaskColumns
from secbatch.tasks.registry import build_task

if TYPE_CHECKING:
    from secbatch.models.device import Compute
    from secbatch.models.resolved import ResolvedModel

ROW_FIELDS = (
    pa.field("secbatch_id", pa.string()),
    pa.field("secbatch_source", pa.string()),
    pa.field("secbatch_row", pa.int64()),
    pa.field("secbatch_run", pa.string()),
    pa.field("secbatch_status", pa.string()),
    pa.field("secbatch_error", pa.string()),
)


@dataclass(frozen=True)
class Work:
    """A shard on its way through the stages; each stage adds what it knows."""

    identified: Identified
    key: str  # content key
    reused: dict[str, pa.Table] = field(default_factory=dict)  # task -> its columns, from an earlier run
    stage: dict[str, Any] = field(default_factory=dict)  # task -> encoded, then computed


@dataclass(frozen=True)
class Enriched:
    """A finished shard."""

    table: pa.Table
    rejected: int
    tokens: int
    padding: int
    done: dict[str, int]  # task -> rows in which it had something to do


class Worker:
    """Runs every task of a job over shards of one input schema. Cheap to make; `load` brings the weights."""

    def __init__(
        self, job: Job, schema: pa.Schema, models: "dict[str, ResolvedModel]", compute: "Compute", run: str
    ) -> None:
        """`models`: one for each task name. Raises JobError when tasks and input do not fit together."""
        self.tasks: dict[str, Task] = {
            name: build_task(name, spec, schema, models[name], compute) for name, spec in job.tasks.items()
        }
        self.fingerprints = {name: task.fingerprint() for name, task in self.tasks.items()}
        self._partition_by = job.output.partition_by
        self._run = run
        fields = [
            *schema.remove_metadata(),
            *(f for task in self.tasks.values() for f in task.fields),
            *ROW_FIELDS,
        ]
        _refuse_collisions(schema, fields[len(schema) :])
        self.schema = pa.schema(fields)

    def load(self) -> None:
        for task in self.tasks.values():
            task.load()

    def encode(self, work: Work) -> Work:
        shard = work.identified.shard
        usable = np.ones(shard.num_rows, dtype=bool)
        usable[list(shard.errors)] = False
        mask, ids = pa.array(usable), work.identified.ids
        todo = {name: task for name, task in self.tasks.items() if name not in work.reused}
        return replace(work, stage={name: task.encode(shard.table, ids, mask) for name, task in todo.items()})

    def compute(self, work: Work) -> Work:
        return replace(work, stage={name: self.tasks[name].compute(stage) for name, stage in work.stage.items()})

    def finish(self, work: Work) -> Enriched:
        shard = work.identified.shard
        errors = dict(shard.errors)
        columns: dict[str, Any] = dict(zip(shard.table.column_names, shard.table.columns, strict=True))
        tokens = padding = 0
        for name, task in self.tasks.items():
            if name in work.reused:
                columns |= {f.name: work.reused[name].column(f.name) for f in task.fields}
                continue
            added: TaskColumns = task.finish(work.stage[name])
            columns |= added.columns
            tokens, padding = tokens + added.tokens, padding + added.padding
            for position, sentence in added.errors.items():
                errors[position] = f"{errors[position]} {sentence}" if position in errors else sentence
        for column in self._partition_by:
            for position, value in misread_partitions(shard.table.column(column)).items():
                shown = value if len(value) <= 40 else f"{value[:40]}…"
                sentence = (
                    f"Column '{column}' has the value '{shown}', which cannot stand as a partition folder's name; "
                    "it stands as null there."
                )
                errors[position] = f"{errors[position]} {sentence}" if position in errors else sentence
        done = {name: _filled(columns[task.fields[0].name]) for name, task in self.tasks.items()}
        n = shard.num_rows
        columns["secbatch_id"] = work.identified.ids
        columns["secbatch_source"] = shard.source
        columns["secbatch_row"] = shard.row
        columns["secbatch_run"] = pa.repeat(self._run, n)
        columns["secbatch_status"] = pa.array(["rejected" if i in errors else "ok" for i in range(n)], pa.string())
        columns["secbatch_error"] = pa.array([errors.get(i) for i in range(n)], pa.string())
        arrays = [_conform(columns[f.name], f.type) for f in self.schema]
        return Enriched(pa.table(arrays, schema=self.schema), len(errors), tokens, padding, done)


def _filled(column: Any) -> int:
    return len(column) - int(column.null_count)


def _conform(column: Any, kind: pa.DataType) -> Any:
    return column if column.type == kind else column.cast(kind)


def _refuse_collisions(schema: pa.Schema, added: list[pa.Field]) -> None:
    # Without regard to case: DuckDB and Spark fold it.
    taken = {name.casefold(): name for name in schema.names}
    for output in added:
        if output.name.casefold() in taken:
            raise JobError(
                f"Input column '{taken[output.name.casefold()]}' has the name of the output column '{output.name}'; "
                "rename the input column or the task."
            )
        taken[output.name.casefold()] = output.name
