"""What a run would do, before it does it."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from secbatch.identity import Identified, Identities, content_key
from secbatch.job import Chat, Job
from secbatch.runner import Setup, grouped_shards, limited_shards, set_up
from secbatch.sources.shard import Shard
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
        schedule = ledger.shard_rows() if ledger else None
        setup = set_up(job, "plan", schedule)
        plan = Plan(
            files=len(setup.source.files),
            device=setup.compute.description,
            precision=setup.compute.dtype,
            models=[f"{name}: {model.name}" for name, model in setup.models.items()],
            notices=[*setup.compute.notices, *setup.source.notices],
        )
        if any(isinstance(spec, Chat) and spec.conversation for spec in job.tasks.values()):
            plan.notices.append("rows are grouped by conversation first, on disk where they are many")
        with tempfile.TemporaryDirectory() as spill:
            done = ledger if job.output.mode == "incremental" else None
            probe = _count(setup, done, plan, limit, Path(spill) / "conversations")
    finally:
        if ledger:
            ledger.close()
    if probe is not None and probe.shard.num_rows:
        _time(setup, probe, plan)
    return plan


def _count(setup: Setup, ledger: Ledger | None, plan: Plan, limit: int | None, spill: Path) -> Identified | None:
    """Fills in the plan's counts; returns a shard that is still to be done."""
    job = setup.job
    identities = Identities(job.input.id, job.input.sentences is not None)
    todo: Identified | None = None
    for shard in limited_shards(grouped_shards(setup, spill), limit):
        plan.unparseable += len(shard.rejects)
        plan.rejected += len(shard.errors)
        plan.rows += shard.num_rows
        if not shard.num_rows:
            continue
        plan.shards += 1
        identified = identities.name(shard)
        known = ledger.parts_of(content_key(identified)) if ledger else []
        if any(part.tasks == setup.worker.fingerprints for part in known):
            plan.reused_rows += shard.num_rows
            plan.reused_shards += 1
        elif todo is None or todo.shard.num_rows < shard.num_rows <= 16 * PROBE_ROWS:
            todo = identified
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
    import pyarrow as pa

    shard = identified.shard
    place: pa.Array = pa.array(rows, pa.int64())
    errors = {new: shard.errors[old] for new, old in enumerate(rows) if old in shard.errors}
    table, source, row = shard.table.take(place), shard.source.take(place), shard.row.take(place)
    return Work(Identified(Shard(0, table, source, row, errors), identified.ids.take(place), 0, ()), "probe")
