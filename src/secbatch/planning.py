"""What a run would do, before it does it."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from secbatch import runner
from secbatch.identity import Identified, Identities
from secbatch.job import Chat, Job
from secbatch.pacing import ShardSizes
from secbatch.preparing import Setup, set_up
from secbatch.reuse import Reuse
from secbatch.shards import input_shards
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.worker import Work

PROBE_ROWS = 64  # rows that are run through the models to measure their speed


@dataclass
class Plan:
    """Rows, shards, tokens and time of a run that has not happened."""

    files: int
    rows: int = 0
    shards: int = 0
    reused_rows: int = 0
    reused_shards: int = 0
    unparseable: int = 0
    rejected: int = 0
    tokens: float | None = None  # estimated from the probe
    padding_share: float | None = None
    seconds: float | None = None
    device: str = ""
    precision: str = ""
    models: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def plan_job(job: Job, *, limit: int | None = None) -> Plan:
    """Reads the whole input, looks up what is done, and times the models on a few rows. Writes nothing.

    Raises the same one-sentence errors as a run for what is wrong with the job, the models or the input.
    """
    layout = Layout(Path(job.output.path))
    ledger = Ledger.read_only(layout.ledger) if layout.ledger.exists() else None
    try:
        setup = set_up(job, "plan", lambda cuda: ShardSizes(runner.shard_rows_schedule(job, cuda)))
        plan = Plan(
            files=len(setup.source.files),
            device=setup.compute.description,
            precision=setup.compute.dtype,
            models=[f"{name}: {model.name}" for name, model in setup.models.items()],
            notices=[*setup.compute.notices, *setup.source.notices],
        )
        if any(isinstance(spec, Chat) and spec.conversation for spec in job.tasks.values()):
            plan.notices.append("rows are grouped by conversation first, on disk where they are many")
        with tempfile.TemporaryDirectory() as scratch:
            reuse = Reuse(
                layout,
                ledger,
                setup.worker,
                setup.source.schema,
                base=ledger.latest_version() if ledger else 0,
                run="plan",
                about={"id": list(job.input.id)},
                fresh=job.output.mode == "overwrite",
                scratch=Path(scratch),
            )
            probe = _count(setup, reuse, plan, limit, Path(scratch))
    finally:
        if ledger:
            ledger.close()
    if probe is not None and probe.shard.num_rows:
        _time(setup, probe, plan)
    return plan


def _count(setup: Setup, reuse: Reuse, plan: Plan, limit: int | None, scratch: Path) -> Identified | None:
    """Fills in the plan's counts; returns a shard that is still to be done."""
    job = setup.job
    identities = Identities(job.input.id, job.input.sentences is not None, scratch)
    todo: Identified | None = None
    for shard in input_shards(setup, scratch / "conversations", limit):
        plan.unparseable += len(shard.rejects)
        plan.rejected += len(shard.errors)
        plan.rows += shard.num_rows
        if not shard.num_rows:
            continue
        plan.shards += 1
        identified = identities.name(shard)
        match = reuse.look(identified).match
        wanted = np.logical_or.reduce([match.todo(name) for name in setup.worker.tasks])
        plan.reused_rows += int((~wanted).sum())
        if not wanted.any():
            plan.reused_shards += 1
        elif todo is None or todo.shard.num_rows < wanted.sum() <= 16 * PROBE_ROWS:
            todo = identified.take(np.flatnonzero(wanted))
    return todo


def _time(setup: Setup, identified: Identified, plan: Plan) -> None:
    shard = identified.shard
    step = max(1, shard.num_rows // PROBE_ROWS)
    rows = list(range(0, shard.num_rows, step))[:PROBE_ROWS]
    worker = setup.worker
    worker.load()
    worker.finish(worker.compute(worker.encode(_sample(identified, rows[:4]))))  # the first call pays for warming up
    begin = time.monotonic()
    enriched = worker.finish(worker.compute(worker.encode(_sample(identified, rows))))
    share = (plan.rows - plan.reused_rows) / len(rows)
    plan.seconds = (time.monotonic() - begin) * share
    plan.tokens = enriched.tokens * share
    plan.padding_share = enriched.padding / max(enriched.padding + enriched.tokens, 1)


def _sample(identified: Identified, rows: list[int]) -> Work:
    return Work(identified.take(np.array(rows, np.int64)))
