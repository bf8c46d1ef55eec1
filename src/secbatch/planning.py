"""What a run would do, before it does it."""

import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from secbatch import run_identity, runner
from secbatch.earlier_try import EarlierTry
from secbatch.identity import Identified, Identities
from secbatch.job import Job, check_job
from secbatch.models.device import faster_precision
from secbatch.models.threads import restored_threads
from secbatch.output_checks import check_mode, check_place, check_settings
from secbatch.pacing import LARGEST, ShardSizes
from secbatch.preparing import Setup, set_up
from secbatch.probing import Sample, measure
from secbatch.reuse import Looked, Reuse
from secbatch.run_date import pinned
from secbatch.run_options import RunOptions
from secbatch.running import SPEED
from secbatch.schema_changes import check_columns, check_tasks
from secbatch.shards import input_shards
from secbatch.store.filesystem import check_writable
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_errors import DamagedLedgerError
from secbatch.store.ledger_records import Run
from secbatch.store.lock import held, holder
from secbatch.store.parts import DamagedPartError
from secbatch.store.rebuild import look_at_ledger
from secbatch.task_keys import conversations_held
from secbatch.tasks.repeats import forget


@dataclass
class Plan:
    """Rows, shards, tokens and time of a run that has not happened."""

    files: int
    rows: int = 0
    shards: int = 0
    todo_rows: int = 0  # for one task at least
    reused_rows: int = 0
    superseded: int = 0  # a later row of the same shard has the id
    reused_shards: int = 0
    unparseable: int = 0
    rejected: int = 0
    tokens: float | None = None  # estimated from the probe, each text that is computed once in a run counted once
    padding_share: float | None = None
    seconds: float | None = None
    probed_rows: int = 0
    device: str = ""
    precision: str = ""
    models: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@restored_threads()
def plan_job(job: Job, *, limit: int | None = None) -> Plan:
    """Reads the whole input, looks up what is done, and times the models on a few rows. Writes nothing.

    Raises the same one-sentence errors as a run for what is wrong with the job, the models, the input or the output,
    and OutputHeldError where a run that is in progress takes away what is being looked at.
    """
    check_job(job)
    asked = RunOptions(limit)
    run = run_identity.new_run_id()  # of the run that might be: its day is a partition of the rows that are measured
    job, _ = pinned(job, run, lambda job: run_identity.described(job, asked))
    layout = Layout(Path(job.output.path))
    check_place(layout)
    check_writable(layout.internal)
    while True:
        before = _newest_run(layout)
        try:
            with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
                scratch = Path(name)
                stack.callback(forget, scratch)
                return _planned(job, layout, run, limit, scratch)
        except (FileNotFoundError, DamagedPartError):
            if holder(layout.lock) is not None:
                raise held(layout.lock) from None
            if _newest_run(layout) == before:  # no run that has ended meanwhile has done it
                raise


def _newest_run(layout: Layout) -> Run | None:
    if not layout.ledger.exists():
        return None
    try:
        with closing(Ledger.read_only(layout.ledger)) as ledger:
            return ledger.newest_run()
    except DamagedLedgerError:  # nobody knows of one
        return None


def _planned(job: Job, layout: Layout, run: str, limit: int | None, scratch: Path) -> Plan:
    ledger, notice = look_at_ledger(layout, scratch)
    tidying = False
    try:
        newest = ledger.latest_version() if ledger else 0
        if ledger:
            unfinished = ledger.unfinished_run(run_identity.described(job, RunOptions(limit)))
            check_mode(job, layout, ledger, goes_on=unfinished is not None)
            tidying = unfinished is not None and ledger.all_published(unfinished)
            if unfinished and not tidying and holder(layout.lock) is None:
                run = unfinished  # a run would go on as this one
        grouped = job.holds_conversations
        # As a run cuts them. Where no run has measured the speed, they are large: rows are only counted in them; but
        # those of conversations are cut before the first run knows it, too.
        speed = float((ledger and ledger.setting(SPEED)) or (0 if grouped else LARGEST))
        fixed = ledger.shard_rows(run) if ledger else {}
        setup = set_up(
            job,
            run,
            lambda cuda: ShardSizes(runner.shard_rows_schedule(job, cuda), fixed, expected=speed),
            newest,
            scratch,
        )
        plan = Plan(
            files=len(setup.source.files),
            device=setup.device[0],
            precision=setup.device[1],
            models=[f"{name}: {model.name}" for name, model in setup.models.items()],
            notices=[*filter(None, [notice]), *setup.compute.notices, *setup.source.notices],
        )
        if ledger:
            check_settings(job, layout, ledger)
        if grouped:
            plan.notices.append("rows are grouped by conversation first, on disk where they are many")
        reuse = Reuse(
            layout,
            ledger,
            setup.worker,
            setup.source.schema,
            base=ledger.version_before(run) if ledger else 0,
            run=run,
            about={"id": list(job.input.id)},
            fresh=job.output.mode == "overwrite",
            redone=tidying,
            scratch=scratch,
        )
        check_columns(job, reuse.base_columns(), setup.source.schema, plan.notices.append)
        check_tasks(job, reuse.base_tasks(), False, plan.notices.append)
        begin = time.monotonic()
        earlier = EarlierTry(layout, ledger, run, reuse, plan.notices.append) if ledger else None
        sample = _count(setup, reuse, earlier, plan, limit, scratch)
        counting = time.monotonic() - begin  # a run reads and looks up the same rows
    finally:
        if ledger:
            ledger.close()
    cost = measure(setup.worker, sample)
    if cost:
        loaded = [text for task in setup.worker.tasks.values() for text in task.notices]
        plan.notices += [text for text in dict.fromkeys(loaded) if text not in plan.notices]
        if job.precision == "auto" and "float32" in setup.worker.precisions.values():  # of a task computed here
            plan.notices += faster_precision(setup.compute)
        plan.probed_rows = cost.rows
        plan.seconds = counting + cost.loading + cost.seconds
        plan.tokens = cost.tokens
        plan.padding_share = cost.padding_share
        if not grouped:  # conversations are cut into shards before the speed is known
            sizes = ShardSizes(runner.shard_rows_schedule(job, setup.compute.device.startswith("cuda")))
            sizes.hold(setup.worker.row_bytes)
            plan.shards = plan.reused_shards + sizes.expected(plan.todo_rows, plan.todo_rows / cost.seconds)
    return plan


def _count(
    setup: Setup, reuse: Reuse, earlier: EarlierTry | None, plan: Plan, limit: int | None, scratch: Path
) -> Sample:
    """Fills in the plan's counts; returns a sample of the rows that are still to be done."""
    job = setup.job
    identities = Identities.of(job, scratch)
    sample = Sample()
    for shard in input_shards(setup, scratch / "conversations", limit):
        plan.unparseable += len(shard.rejects)
        plan.rejected += len(shard.errors)
        plan.rows += shard.num_rows + shard.superseded
        plan.superseded += shard.superseded
        if not shard.num_rows:
            continue
        plan.shards += 1
        identified = identities.name(shard)
        looked, finished = _looked_up(identified, reuse, earlier)
        match = looked.match
        todo = {name: match.todo(name) & (not finished) for name in setup.worker.tasks}
        wanted = int(np.logical_or.reduce(list(todo.values())).sum())
        plan.superseded += shard.num_rows - len(match.kept)
        plan.todo_rows += wanted
        plan.reused_rows += len(match.kept) - wanted
        if not wanted:
            plan.reused_shards += 1
        reads = {name: looked.keys.done[name][:, 0] for name in todo}
        sample.add(identified, todo, reads, conversations_held(setup.worker.tasks, identified.shard.table))
    return sample


def _looked_up(identified: Identified, reuse: Reuse, earlier: EarlierTry | None) -> tuple[Looked, bool]:
    """Also whether an earlier try of the run has finished the shard."""
    looked = reuse.look(identified)
    if not earlier:
        return looked, False
    key = reuse.key(looked)
    if earlier.finished(looked, key):
        return looked, True
    return reuse.look(identified) if earlier.takes_over(looked, key) else looked, False
