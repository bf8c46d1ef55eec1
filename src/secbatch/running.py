"""One run on an output that this process holds, from its settings to its record."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from secbatch import system_limits
from secbatch.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_REJECTS,
    OutputError,
    SecbatchError,
    interrupt_behind,
)
from secbatch.finished_shards import FinishedShards
from secbatch.freed_memory import give_back_freed_memory
from secbatch.job import Job
from secbatch.output_checks import check_mode, check_settings, settings
from secbatch.pacing import ShardSizes
from secbatch.poison import Poison
from secbatch.preparing import Setup, set_up
from secbatch.provenance import footer, provenance
from secbatch.publishing import Publisher
from secbatch.redaction import redacted
from secbatch.reporting import Reporter
from secbatch.reuse import Reuse, schema_name
from secbatch.run_context import RunContext
from secbatch.run_identity import described, now
from secbatch.run_options import RunOptions
from secbatch.run_progress import RunProgress
from secbatch.run_record import run_record
from secbatch.run_result import RunResult
from secbatch.schema_changes import check_columns, check_tasks
from secbatch.shard_lookup import ShardLookup
from secbatch.shard_stages import ShardStages
from secbatch.stages import StageClock
from secbatch.store.filesystem import make_folder, remove_file, remove_tree
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.progress import ProgressFile
from secbatch.store.rejects import RejectWriter
from secbatch.store.run_files import write_run_file
from secbatch.store.versions import prune
from secbatch.task_specs import FillMask
from secbatch.tasks.repeats import forget
from secbatch.time_left import TimeLeft
from secbatch.underway import Underway

SPEED = "rows a second"  # in the ledger's settings: of the last run that measured it


class Run:
    def __init__(
        self,
        job: Job,
        layout: Layout,
        ledger: Ledger,
        options: RunOptions,
        reporter: Reporter,
        schedule: Callable[[bool], tuple[int, ...]],
        new_run: str,
    ) -> None:
        """`new_run`: its id, unless it goes on as an earlier one.

        `schedule(cuda)`: row targets of the first shards, as `secbatch.pacing.ShardSizes` wants them."""
        self.job, self.layout, self.ledger, self.options, self.reporter = job, layout, ledger, options, reporter
        self.described = described(job, options)
        unfinished = ledger.unfinished_run(self.described)
        # One that had published all and was still tidying up is not gone on with: its checkpoints may be gone, and what
        # it has added to the dataset counts as any other row there.
        self._tidying = unfinished if unfinished and ledger.all_published(unfinished) else None
        self._resuming = unfinished is not None and not self._tidying
        self.run = unfinished if unfinished and self._resuming else new_run
        check_mode(job, layout, ledger, goes_on=unfinished is not None)
        self.result = RunResult(self.run, str(layout.root))
        for shown in ledger.version_facts()[-1:]:  # what a run that fails leaves as it is
            self.result.version, self.result.rows_in_dataset = shown.number, shown.rows
        self.clock = StageClock()
        self._schedule = schedule

    def execute(self, notices: Sequence[str] = ()) -> RunResult:
        """`notices`: what is to be said before anything else."""
        self.started, self.begin = now(), time.monotonic()
        known_output = self.ledger.latest_version() > 0
        try:
            self.setup = set_up(self.job, self.run, self._pace, self.ledger.latest_version())
            self.sizes.hold(self.setup.worker.row_bytes)
            for text in notices:
                self._notice(text)
            check_settings(self.job, self.layout, self.ledger)
            for key, value in settings(self.job).items():
                self.ledger.fix_setting(key, value)
            # From here on the ledger has the run, which is to be told there how it ended.
            self.result.device, self.result.precision = self.setup.device
            self.ledger.start_run(self.run, self.described, self.started)
            if self._tidying:
                self.ledger.end_run(self._tidying, "finished", self.started)
            context = self._context(self.setup)
            with ProgressFile(self.layout.progress, context.progress.snapshot, self._notice):
                self._go(context)
            self.result.state = "finished"
        except BaseException as error:
            moved = self._moved() if isinstance(error, OutputError | OSError) else None
            self._note_end(moved or error)
            if moved:  # then anything that is to be written or read may be the first that is not there
                raise moved from None
            raise
        finally:
            self.result.seconds = time.monotonic() - self.begin
            self.result.timings = self.clock.seconds()
            if self.result.device:  # it got as far as work
                self._end()
            if (self.result.device or known_output) and self.ledger.in_place():
                self._record(self.started)
        return self.result

    def _moved(self) -> OutputError | None:
        try:
            self.ledger.check_in_place()
        except OutputError as error:
            return error
        return None

    def _end(self) -> None:
        """Notes in the ledger how the run ended."""
        try:
            if self.sizes.rate:
                self.ledger.fix_setting(SPEED, f"{self.sizes.rate:.3f}")
            self.ledger.end_run(self.run, self.result.state, now())
        except SecbatchError as error:
            if self.result.state == "finished":
                raise
            # What has stopped the run matters more; its cause, a full disk, may be that of this as well.
            if str(error) != self.result.error:
                self._notice(f"How the run ended could not be noted: {error}")

    def _note_end(self, error: BaseException) -> None:
        interrupt = interrupt_behind(error)
        interrupted, error = interrupt is not None, interrupt or error
        self.result.state = "interrupted" if interrupted else "failed"
        if isinstance(error, SecbatchError):
            self.result.exit_code, self.result.error = error.exit_code, str(error)
        else:
            self.result.exit_code = EXIT_INTERRUPTED if interrupted else EXIT_FAILURE
            self.result.error = str(system_limits.refused(error) or redacted(f"{type(error).__name__}: {error}"))

    # -- before work

    def _pace(self, cuda: bool) -> ShardSizes:
        fixed = self.ledger.shard_rows(self.run)
        # Where most rows are done, none is computed that the speed could be measured by.
        expected = float(self.ledger.setting(SPEED) or 0)
        self.sizes = ShardSizes(
            self._schedule(cuda), fixed, lambda chosen: self.ledger.fix_shard_rows(self.run, chosen), expected
        )
        return self.sizes

    def _context(self, setup: Setup) -> RunContext:
        job, result, clock = self.job, self.result, self.clock
        rejects = RejectWriter(self.layout.rejects, self.run)
        progress = RunProgress(
            job.name,
            self.options.limit,
            self.started,
            self.begin,
            result,
            setup.source,
            rejects,
            clock,
            TimeLeft(self.begin),
            Underway(),
        )
        return RunContext(
            self.run,
            job,
            self.layout,
            self.ledger,
            self.options,
            setup,
            self.sizes,
            rejects,
            result,
            clock,
            progress,
            self._notice,
        )

    # -- work

    def _go(self, context: RunContext) -> None:
        job, setup = self.job, context.setup
        for text in (*setup.compute.notices, *setup.source.notices):
            self._notice(text)
        self._clean_up()
        about: dict[str, Any] = {
            "id": list(job.input.id),
            "sentences": job.input.sentences,
            "partition_by": list(job.output.partition_by),
            "columns": {field.name: str(field.type) for field in setup.source.schema},
            "schema": schema_name(setup.worker.schema),
            "tasks": {name: [fingerprint] for name, fingerprint in setup.worker.fingerprints.items()},
        }
        reuse = Reuse(
            self.layout,
            self.ledger,
            setup.worker,
            setup.source.schema,
            base=self.ledger.version_before(self.run),
            run=self.run,
            about=about,
            fresh=job.output.mode == "overwrite",
            redone=self._tidying is not None,
            retry=self.options.retry,
            notice=self._notice,
        )
        poison = Poison(self.layout, self.ledger, setup.worker, setup.compute, self.options.retry, self._notice)
        check_columns(job, reuse.base_columns(), setup.source.schema, self._notice)
        check_tasks(job, reuse.base_tasks(), self.options.keep_tasks, self._notice)
        lookup = ShardLookup(context, reuse, poison)
        lookup.check_recompute()
        publisher = Publisher(job, self.layout, self.ledger, self.run, reuse, setup.worker, about)
        publisher.metadata = footer(setup)
        with ExitStack() as stack:
            stack.callback(forget, self.layout.checkpoints)  # where it fails
            stack.callback(reuse.close)
            stack.callback(setup.worker.abandon)  # what a failure has left on its way
            ahead = stack.enter_context(writer) if (writer := publisher.parts_ahead()) else None
            finished = FinishedShards(context, lookup, publisher, ahead, self.reporter)
            ShardStages(context, lookup, finished, poison, about, publisher.metadata).work()
            # No shard is to come. Row groups that are put together to parts would come on top of what shards took.
            forget(self.layout.checkpoints)
            give_back_freed_memory()
            rejects = context.rejects
            rejects.flush()
            self.result.unparseable, self.result.unreadable_files = rejects.count, len(rejects.broken_files)
            with self.clock("publish"):
                if ahead:
                    ahead.finish()
                finished.publish(final=True)
            self._judge()
        publisher.clear(lookup.complete())

    def _clean_up(self) -> None:
        """What killed runs have left goes, but for checkpoints; folders are there."""
        if self.layout.scratch.exists():
            remove_tree(self.layout.scratch)
        for record in self.layout.runs.glob(".*.tmp"):
            remove_file(record)
        for folder in (self.layout.parts, self.layout.keys, self.layout.checkpoints):
            make_folder(folder)
        if not self._resuming:
            # Another run may have written a part of the same rows of the base: under that name, with its own footer.
            prune(self.layout, self.ledger)

    # -- after work

    def _judge(self) -> None:
        for name, rows in self.result.done.items():
            if not rows:
                spec = self.job.tasks[name]
                missing = "has a <mask>" if isinstance(spec, FillMask) else "has text"
                if self.result.rejected:  # they may be the ones that have it
                    rows_were = "row was" if self.result.rejected == 1 else "rows were"
                    # Those that are reused had it before.
                    results, other = (
                        ("new results", "other new row") if self.result.reused else ("results", "other row")
                    )
                    said = f"has no {results}: {self.result.rejected:,} {rows_were} rejected, and no {other} of"
                else:
                    said = "had nothing to do: no enriched row of"
                self._notice(f"Task '{name}' {said} '{spec.text}' {missing}.")
        bad = self.result.rejected + self.result.unparseable
        allowed = self.job.rejects_allowed(self.result.read + self.result.unparseable)
        if bad > allowed or self.result.unreadable_files:
            self.result.exit_code = EXIT_REJECTS

    # -- what others see of it

    def _notice(self, text: str) -> None:
        text = redacted(text)
        self.result.notices.append(text)
        self.reporter.notice(text)

    def _record(self, started: str) -> None:
        known: dict[str, Any] = {"models": {}, "versions": {}}
        if self.result.device:
            known = provenance(self.setup) | {"precision": self.result.precision}
            for name, precision in (self.result.precisions or self.setup.worker.precisions).items():
                known["models"][name]["precision"] = precision
        record = run_record(
            self.result, self.job, started=started, finished=now(), limit=self.options.limit, provenance=known
        )
        try:
            write_run_file(self.layout.runs, self.run, record)
        except SecbatchError as error:
            # The run's own outcome matters more than its record; a full disk must not hide it.
            self._notice(f"The run's record could not be written: {error}")
