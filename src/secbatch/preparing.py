"""What is settled before the first row is read."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from secbatch.collector import resting
from secbatch.errors import InputError, ModelError, columns_there, nearest, shown
from secbatch.job import Job
from secbatch.pacing import LARGEST
from secbatch.sources.open import Source, open_source
from secbatch.store.dataset_types import column_types
from secbatch.store.layout import Layout
from secbatch.store.partitions import check_partition_columns
from secbatch.task_specs import goes_through_endpoint
from secbatch.worker import Worker

if TYPE_CHECKING:
    from secbatch.models.device import Compute
    from secbatch.models.resolved import RemoteModel, ResolvedModel


@dataclass(frozen=True)
class Setup:
    """All that is known before the first row is read: checked, but no weights loaded."""

    job: Job
    compute: "Compute"
    models: "dict[str, ResolvedModel | RemoteModel]"
    source: Source
    worker: Worker
    shard_rows: Callable[[int], int]  # row target of shard number i

    @property
    def device(self) -> tuple[str, str]:
        """For people: what computes, and in which precision; the latter is not known where servers compute all."""
        if all(map(goes_through_endpoint, self.job.tasks.values())):
            return "endpoint", ""
        return self.compute.summary, self.compute.dtype


@resting()
def set_up(
    job: Job,
    run: str,
    pace: Callable[[bool], Callable[[int], int]],
    version: int = 0,
    scratch: Path | None = None,
) -> Setup:
    """Resolves models, opens the input, fits tasks to columns. Raises one-sentence errors for all that is wrong.

    `pace(cuda)` gives the row target of each shard, by its number. `version`: the output's newest, whatever the link
    leads to. `scratch`: a folder for what the worker keeps on disk; None: beside the output.
    """
    from secbatch.models.device import choose
    from secbatch.tasks.registry import resolve_model

    # The weights are hashed on another core while torch is imported: each takes a second or two.
    with ThreadPoolExecutor(1) as other:
        resolving = {name: other.submit(resolve_model, spec) for name, spec in job.tasks.items()}
        compute = choose(job.device, job.precision)
        models = {}
        for name, resolved in resolving.items():
            try:
                models[name] = resolved.result()
            except ModelError as error:
                raise type(error)(f"tasks.{name}.model: {error}") from None
    shard_rows = pace(compute.device.startswith("cuda"))
    # Conversations are put into shards once all input is read: then the target of each is asked for, and not before,
    # as it depends on how fast those before it were.
    whole = job.holds_conversations
    layout = Layout(Path(job.output.path))
    earlier = {} if job.output.mode == "overwrite" else column_types(layout, version)
    source = open_source(job.input, (lambda shard: LARGEST) if whole else shard_rows, earlier)
    _refuse_own_output(source, layout)
    _check_columns(job, source.schema)
    worker = Worker(job, source.schema, models, compute, run, scratch=scratch or layout.checkpoints)
    return Setup(job, compute, models, source, worker, shard_rows)


def _check_columns(job: Job, schema: pa.Schema) -> None:
    wanted = [(name, "input.id") for name in job.input.id]
    output = job.output
    wanted += [(name, "output.partition_by") for name in output.partition_columns if name != output.run_date_column]
    for name, key in wanted:
        if name not in schema.names:
            raise InputError(
                f"{key}: there is no column '{shown(name)}' in the input{nearest(name, schema.names)}; "
                f"{columns_there(schema.names)}."
            )
    if output.run_date_column and output.run_date_column not in schema.names:
        schema = schema.append(pa.field(output.run_date_column, pa.date32()))
    check_partition_columns(output.partition_columns, schema)


def _refuse_own_output(source: Source, layout: Layout) -> None:
    """A job whose input takes in its output would enrich its own rows again on every run."""
    own = layout.internal.resolve()
    for file in source.files:
        if "://" not in file.path and Path(file.fs_path).resolve().is_relative_to(own):
            raise InputError(
                f"Input file '{file.path}' is part of this job's output '{layout.root}'; "
                "put the output outside of the input, or narrow input.path."
            )
