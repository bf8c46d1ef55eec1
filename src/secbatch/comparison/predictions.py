"""A task's columns for a table, without a job around it: what is evaluated is what runs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from secbatch.errors import JobError, ModelError, counted
from secbatch.home import expanded
from secbatch.jobfile import validate
from secbatch.models.device import Compute
from secbatch.models.resolve import resolve
from secbatch.models.resolved import ResolvedModel
from secbatch.provenance import about_model
from secbatch.tasks.base import Task
from secbatch.tasks.encoder_task import precision_of
from secbatch.tasks.registry import Encoders, build_task

ROWS_AT_ONCE = 1024
Progress = Callable[[int], None]  # told how many rows have been done since the last time


@dataclass(frozen=True)
class Predicted:
    """What a model made of n rows."""

    model: ResolvedModel
    columns: dict[str, list[Any]]  # by the column's name after the task's: "", "_top", … [n] Python values
    errors: dict[int, str]  # rows that could not be done -> one sentence
    seconds: float  # without loading
    precision: str  # the number format that it was computed in, which need not be the one asked for
    notices: tuple[str, ...]

    @property
    def about(self) -> dict[str, Any]:
        """The model, as records of runs name it."""
        return about_model(self.model) | {"precision": self.precision}


def task_for(model: ResolvedModel, settings: Mapping[str, Any], table: pa.Table, compute: Compute) -> Task:
    """The task that a job with these settings would run. Raises JobError or ModelError when it does not fit."""
    values = {
        "name": "evaluate",
        "input": {"path": "-"},
        "tasks": {"task": {**settings, "model": model.name}},
        "output": {"path": "-"},
    }
    spec = validate(values, "the task").tasks["task"]
    return build_task("task", spec, table.schema, model, compute, Encoders(None))


def predict(
    model: str, settings: Mapping[str, Any], table: pa.Table, compute: Compute, progress: Progress | None = None
) -> Predicted:
    """Runs a task over a table of n rows; `settings` are those of a job's task, without the model."""
    resolved = resolve(model)
    task = task_for(resolved, settings, table, compute)
    task.load()
    used = precision_of(task, compute.dtype) or compute.dtype
    begin = time.monotonic()
    columns: dict[str, list[Any]] = {one.name.removeprefix("task"): [] for one in task.fields}
    errors: dict[int, str] = {}
    for first in range(0, table.num_rows, ROWS_AT_ONCE):
        part = table.slice(first, ROWS_AT_ONCE).combine_chunks()
        ids = pa.array([str(first + row) for row in range(part.num_rows)])
        done = task.finish(task.compute(task.encode(part, ids, pa.array(np.ones(part.num_rows, bool)))))
        for name, column in done.columns.items():
            columns[name.removeprefix("task")] += column.to_pylist()
        errors |= {first + row: sentence for row, sentence in done.errors.items()}
        if progress is not None:
            progress(part.num_rows)
    return Predicted(resolved, columns, errors, time.monotonic() - begin, used, task.notices)


def named_apart(models: list[str]) -> list[str]:
    """Models as a table names them: the shortest tails of their paths that tell them apart."""
    if len(set(models)) < len(models):
        twice = next(model for model in models if models.count(model) > 1)
        raise JobError(f"model {twice} is named twice")
    # Only folders: builtin/mlm and owner/name are names already.
    parts = [
        model.rstrip("/").split("/") if expanded(model, "model", ModelError).is_dir() else [model] for model in models
    ]
    size = 1
    while size < max(map(len, parts)):
        short = ["/".join(part[-size:]) for part in parts]
        if len(set(short)) == len(short):
            return short
        size += 1
    return models


def one_sentence(errors: Mapping[int, str], rows: int, model: str) -> tuple[str, ...]:
    """A notice on rows that a model could not do. Raises ModelError when it could do none."""
    if not errors:
        return ()
    row, sentence = min(errors.items())
    if len(errors) == rows:
        raise ModelError(f"model {model} could do none of the {counted(rows, 'row')} ({sentence})")
    return (
        f"model {model} could not do {len(errors)} of {rows} rows, which"
        f" {'counts' if len(errors) == 1 else 'count'} as wrong (row {row + 1}: {sentence})",
    )
