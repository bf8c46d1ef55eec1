"""One run on an output that this process holds: reads, looks up, has computed, checkpoints, publishes, records."""

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from secbatch.engines.in_order import InOrder
from secbatch.engines.local import LocalEngine
from secbatch.engines.read_ahead import read_ahead
from secbatch.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_REJECTS,
    Interrupted,
    OutOfTime,
    OutputError,
    SecbatchError,
)
from secbatch.identity import Identified, Identities
from secbatch.job import FillMask, Job
from secbatch.pacing import ShardSizes
from secbatch.poison import Poison
from secbatch.preparing import Setup, set_up
from secbatch.provenance import footer, provenance
from secbatch.publishing import Publisher
from secbatch.redaction import redacted
from secbatch.reporting import Reporter
from secbatch.reuse import KeptRows, Reuse, schema_name
from secbatch.run_identity import described, now
from secbatch.run_options import RunOptions
from secbatch.run_progress import RunProgress
from secbatch.run_record import run_record
from secbatch.run_result import RunResult
from secbatch.schema_changes import check_columns, check_tasks
from secbatch.shards import input_shards
from secbatch.sources.shard import Shard
from secbatch.stages import StageClock
from secbatch.store.checkpoints import checkpoint_keys, whole, write_checkpoint
from secbatch.store.filesystem import make_folder, remove_tree
from secbatch.store.layout import Layout
from secbatch.store.ledger import Checkpoint, Ledger
from secbatch.store.present import Present
from secbatch.store.progress import ProgressFile
from secbatch.store.rejects import RejectWriter
from secbatch.store.row_keys import REJECTED, RowKeys
from secbatch.store.run_files import write_run_file
from secbatch.store.versions import prune
from secbatch.worker import Enriched, Work

SHARDS_AHEAD = 1  # read and looked up while the one before is tokenised
WRITERS = 2  # checkpoints that are written at a time: their bytes are on their way while the next are encoded
SPEED = "rows a second"  # in the ledger's settings: of the last run that measured it
PUBLISH_SECONDS = 600.0  # how often a first run shows what it has so far


@dataclass(frozen=True)
class Item:
    """A shard on its way through the engine."""

    shard: int
    kept: KeptRows
    identified: Identified | None  # until the rows are encoded: all of them, in case they have to be looked up again
    checkpoint: Checkpoint | None = None  # done by an earlier try of this run
    key: str = ""
    work: Work | None = None  # None: nothing to do
    keys: RowKeys | None = None  # of the rows of `work`
    enriched: Enriched | None = None  # what the rows of `work` became, where that is known before any stage
    began: float = 0.0  # monotonic time at which the device was given `work`
    ended: float = 0.0  # and at which it could be given more


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
        self.run = unfinished or new_run
        self._resuming = unfinished is not None
        self._check_mode()
        self.result = RunResult(self.run, str(layout.root))
        self.clock = StageClock()
        self._schedule = schedule
        self._loaded = self._read_whole = False
        self._landed = 0.0  # monotonic time at which the results of the last shard were there
        self._input_changed = False  # since an earlier try of this run

    def _check_mode(self) -> None:
        if self.job.output.mode == "fail-if-exists" and self.ledger.latest_version() and not self._resuming:
            raise OutputError(
                f"Output '{self.layout.root}' exists already and the job says `mode: fail-if-exists`; "
                "choose another output or mode."
            )

    def execute(self, notices: Sequence[str] = ()) -> RunResult:
        """`notices`: what is to be said before anything else."""
        self.started, self.begin = now(), time.monotonic()
        known_output = self.ledger.latest_version() > 0
        try:
            self.setup = setup = set_up(self.job, self.run, self._pace)
            self.worker = setup.worker
            for text in notices:
                self._notice(text)
            self._settle_settings()
            self.ledger.start_run(self.run, self.described, self.started)
            self.rejects = RejectWriter(self.layout.rejects, self.run)
            self.progress = RunProgress(
                self.job.name,
                self.options.limit,
                self.started,
                self.begin,
                self.result,
                setup.source,
                self.rejects,
                self.clock,
            )
            with ProgressFile(self.layout.progress, self.progress.snapshot, self._notice):
                self._go(setup)
            self.result.state = "finished"
        except BaseException as error:
            self._note_end(error)
            raise
        finally:
            self.result.seconds = time.monotonic() - self.begin
            self.result.timings = self.clock.seconds()
            if self.result.device:  # it got as far as work
                if self.sizes.rate:
                    self.ledger.fix_setting(SPEED, f"{self.sizes.rate:.3f}")
                self.ledger.end_run(self.run, self.result.state, now())
            if self.result.device or known_output:
                self._record(self.started)
        return self.result

    def _note_end(self, error: BaseException) -> None:
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        self.result.state = "interrupted" if interrupted else "failed"
        if isinstance(error, SecbatchError):
            self.result.exit_code, self.result.error = error.exit_code, str(error)
        else:
            self.result.exit_code = EXIT_INTERRUPTED if interrupted else EXIT_FAILURE
            self.result.error = redacted(f"{type(error).__name__}: {error}")

    # -- before work

    def _pace(self, cuda: bool) -> ShardSizes:
        fixed = self.ledger.shard_rows(self.run)
        # Where most rows are done, none is computed that the speed could be measured by.
        expected = float(self.ledger.setting(SPEED) or 0)
        self.sizes = ShardSizes(
            self._schedule(cuda), fixed, lambda chosen: self.ledger.fix_shard_rows(self.run, chosen), expected
        )
        return self.sizes

    def _settle_settings(self) -> None:
        """Row identity and partitions are fixed by the first run on an output."""
        settings = {
            "id": json.dumps(self.job.input.id),
            "sentences": json.dumps(self.job.input.sentences),
            "partition_by": json.dumps(self.job.output.partition_by),
        }
        for key, value in settings.items():
            fixed = self.ledger.setting(key)
            if fixed is not None and fixed != value:
                raise OutputError(
                    f"Output '{self.layout.root}' was made with {key} = {fixed}, the job says {value}; "
                    "that cannot change: use another output."
                )
            self.ledger.fix_setting(key, value)

    # -- work

    def _go(self, setup: Setup) -> None:
        self.result.device, self.result.precision = setup.compute.description, setup.compute.dtype
        for text in (*setup.compute.notices, *setup.source.notices):
            self._notice(text)
        if self.layout.scratch.exists():
            remove_tree(self.layout.scratch)  # what a killed run has left
        for folder in (self.layout.parts, self.layout.keys, self.layout.checkpoints):
            make_folder(folder)
        if not self._resuming:
            # Another run may have written a part of the same rows of the base: under that name, with its own footer.
            prune(self.layout, self.ledger)
        job = self.job
        fresh = job.output.mode == "overwrite"
        self.about: dict[str, Any] = {
            "id": list(job.input.id),
            "sentences": job.input.sentences,
            "partition_by": list(job.output.partition_by),
            "columns": {field.name: str(field.type) for field in setup.source.schema},
            "schema": schema_name(self.worker.schema),
            "tasks": {name: [fingerprint] for name, fingerprint in self.worker.fingerprints.items()},
        }
        self.reuse = Reuse(
            self.layout,
            self.ledger,
            self.worker,
            setup.source.schema,
            base=self.ledger.version_before(self.run),
            run=self.run,
            about=self.about,
            fresh=fresh,
            retry=self.options.retry,
        )
        self.poison = Poison(self.layout, self.ledger, self.worker, setup.compute, self.options.retry, self._notice)
        check_columns(job, self.reuse.base_columns(), setup.source.schema, self._notice)
        check_tasks(job, self.reuse.base_tasks(), self.options.keep_tasks, self._notice)
        self._check_recompute()
        self.identities = Identities(job.input.id, job.input.sentences is not None, self.layout.scratch)
        self.publisher = Publisher(job, self.layout, self.ledger, self.run, self.reuse, self.worker, self.about)
        self.publisher.metadata = footer(setup)
        self.present = Present(self.layout.scratch) if job.input.id or self.reuse.base else None
        self.checkpoints: list[Checkpoint] = []
        self.last_published = time.monotonic()
        engine: LocalEngine[Item, Item] = LocalEngine(
            self._encoded(lambda: engine.stopping),
            self._compute,
            self._finish,
            idle=lambda: self.writing.take_what_is_there(),
            end=lambda: self.writing.finish(),
            give_up=self._give_up,
        )
        with ExitStack() as stack:
            stack.callback(self.reuse.close)
            stack.callback(self.worker.abandon)  # what a failure has left on its way
            self.ahead = stack.enter_context(ahead) if (ahead := self.publisher.parts_ahead()) else None
            self.writing = stack.enter_context(InOrder[Checkpoint | None](WRITERS))
            with self.poison:
                engine.run()
            self.rejects.flush()
            self.result.unparseable, self.result.unreadable_files = self.rejects.count, len(self.rejects.broken_files)
            with self.clock("publish"):
                if self.ahead:
                    self.ahead.finish()
                self._publish(final=True)
            self._judge()
        self.publisher.clear(self._complete())

    def _check_recompute(self) -> None:
        """Stops before a changed task has more rows done again than the job allows."""
        most = self.job.max_recompute
        if most is None or self.reuse.outdated_rows() <= most:
            return
        # Only rows of this input are done again, so these are counted: it costs one more reading of the input.
        rows = 0
        scratch = self.layout.scratch / "recompute"
        identities = Identities(self.job.input.id, self.job.input.sentences is not None, scratch)
        for shard in input_shards(self.setup, scratch, self.options.limit):
            if shard.num_rows:
                rows += self.reuse.redone(self.reuse.look(identities.name(shard)))
            if rows > most:
                raise OutputError(
                    f"More than {most:,} rows that are done would be done again, because a task's parameters or model "
                    "have changed (max_recompute); nothing was computed. If that is meant, raise `max_recompute`, or "
                    "leave it out."
                )

    def _shards(self, stopped: Callable[[], bool]) -> Iterator[Shard]:
        spill = self.layout.scratch / "conversations"
        yield from self.clock.each("read", input_shards(self.setup, spill, self.options.limit, stopped))
        self._read_whole = self.options.limit is None and not self.options.partial

    def _prepared(self, stopped: Callable[[], bool]) -> Iterator[Item]:
        """Shards read, their rows named and looked up."""
        for shard in self._shards(stopped):
            self.rejects.add(shard.rejects)
            self.result.read += shard.num_rows
            if not shard.num_rows:
                continue
            with self.clock("identify"):
                identified = self.identities.name(shard)
                self.result.superseded += identified.superseded
                item = self._looked_up(identified)
            del shard, identified
            yield item
            del item

    def _looked_up(self, identified: Identified) -> Item:
        looked = self.reuse.look(identified)
        poison = self.poison.errors(looked.keys)
        if poison:
            looked = self.reuse.look(identified.with_errors(poison))
        key, item = self.reuse.key(looked), Item(identified.shard.index, looked.kept, looked.identified)
        done = self.ledger.checkpoint(self.run, identified.shard.index)
        if done and done.key == key and whole(self.layout, done):
            return replace(item, checkpoint=done)
        if done and done.key != key and not self._input_changed:
            self._input_changed = True
            self.reuse.take_over_own(self.ledger, self.run)
            return self._looked_up(identified)
        todo = self.reuse.work(looked)
        if todo is None:
            return item
        self.sizes.record()
        work, keys = todo
        return replace(item, key=key, work=work, keys=keys)

    def _encoded(self, stopped: Callable[[], bool]) -> Generator[Item, None, None]:
        with closing(read_ahead(self._prepared(stopped), SHARDS_AHEAD, stopped, "read")) as items:
            yield from self._encoded_each(items, stopped)

    def _encoded_each(self, items: Iterator[Item], stopped: Callable[[], bool]) -> Iterator[Item]:
        for item in items:
            if item.keys is not None and self.poison.suspected(item.keys):
                item = self._tried(item, stopped)
            if item.work is None or item.keys is None or item.enriched:
                yield replace(item, identified=None)
                continue
            wanted = [item.work.todo(name) for name in self.worker.tasks]
            if not self._loaded and any(rows is None or len(rows) for rows in wanted):
                with self.clock("load"):
                    self._load()
            self.poison.start(item.shard, item.keys)
            with self.clock("encode"):
                item = replace(item, identified=None, work=self.worker.encode(item.work))
            yield item
            del item  # nothing of it is held while the next one is made; so everywhere on its way

    def _tried(self, item: Item, stopped: Callable[[], bool]) -> Item:
        """The rows done by another process, as one of them may have ended an earlier run."""

        def check() -> None:
            if stopped():
                raise Interrupted("Interrupted while rows are tried")
            self._stop_in_time()

        with self.clock("device"):
            while item.work is not None and item.keys is not None and item.identified is not None:
                enriched = self.poison.sift(item.work, item.keys, check)
                if enriched:
                    return replace(item, enriched=enriched)
                item = self._looked_up(item.identified)  # now without those that ended the process
        return item

    def _load(self) -> None:
        self.worker.load()
        self._loaded = True
        said = set(self.result.notices)
        for text in dict.fromkeys(text for task in self.worker.tasks.values() for text in task.notices):
            if text not in said:
                self._notice(text)

    def _compute(self, item: Item) -> Item:
        self._stop_in_time()
        if item.work is None or item.enriched:
            return item
        begin = time.monotonic()
        with self.clock("device"):
            computed = self.worker.compute(item.work)
        return replace(item, work=computed, began=begin, ended=time.monotonic())

    def _give_up(self, reason: BaseException) -> None:
        """Where a stage has failed nobody waits for answers; at the time to stop, what is asked is waited for."""
        if not isinstance(reason, OutOfTime):
            self.worker.abandon()

    def _stop_in_time(self) -> None:
        if self.options.until is not None and time.time() >= self.options.until:
            done, share = self.result.enriched + self.result.reused, self.progress.fraction()
            raise OutOfTime(
                f"Stopped at the time that was asked for, with {done:,} rows done and about {1 - share:.0%} of the "
                "input left; run the same command again to go on"
            )

    def _finish(self, item: Item) -> None:
        shard, kept, keys = item.shard, item.kept, item.keys
        if item.work is None or keys is None:
            known = item.checkpoint
            self.writing.give(lambda: known, lambda done: self._done(shard, kept, done))
            return
        enriched, key = item.enriched or self._finished(item.work, item.began, item.ended), item.key
        del item  # nothing else of it is held while writers are waited for
        self.writing.give(
            lambda: self._checkpoint(enriched, keys, shard, key),
            lambda done: self._done(shard, kept, done, enriched),
        )

    def _done(
        self, shard: int, kept: KeptRows, checkpoint: Checkpoint | None, enriched: Enriched | None = None
    ) -> None:
        """A shard is durable. `enriched`: where this try has made its checkpoint."""
        rows = None
        if checkpoint and enriched:
            rows = enriched.table
            self._count(enriched)
            self.result.reused += checkpoint.rows - checkpoint.enriched
            self.result.enriched += checkpoint.enriched
        elif checkpoint:
            self.result.reused += checkpoint.rows
        self.result.reused += len(kept.ids)
        self.result.rejected += kept.rejected + (checkpoint.rejected if checkpoint else 0)
        if checkpoint:
            self.checkpoints.append(checkpoint)
            if self.ahead:
                self.ahead.add(checkpoint, rows)
        if self.present:
            # Only now: a version shows the rows of finished shards alone.
            ids = checkpoint_keys(self.layout, checkpoint).ids if checkpoint else kept.ids[:0]
            self.present.add(shard, ids, kept.ids)
        self.result.shards += 1
        self.reporter.progress(
            self.result.enriched + self.result.reused,
            self.result.rejected + self.rejects.count,
            self.progress.fraction(),
        )
        due = time.monotonic() - self.last_published > PUBLISH_SECONDS or self.result.shards == 1
        if due and not self.reuse.base and self.job.output.mode != "overwrite":
            with self.clock("publish"):
                self._publish(final=False)

    def _finished(self, work: Work, began: float, ended: float) -> Enriched:
        landed = self.worker.land(work)
        there = ended if landed is work else time.monotonic()  # nothing was on its way: it was all there then
        # A GPU begins with a shard while it is at work on the one before. Shards that have waited for this thread land
        # one right after another, which says nothing of the device.
        seconds = max(ended - began, there - max(began, self._landed))
        self.sizes.measured(landed.identified.shard.num_rows, seconds)
        self._landed = there
        with self.clock("finish"):
            return self.worker.finish(landed)

    def _count(self, enriched: Enriched) -> None:
        for name, rows in enriched.done.items():
            self.result.done[name] = self.result.done.get(name, 0) + rows
        self.result.tokens += enriched.tokens
        self.result.padding += enriched.padding

    def _checkpoint(self, enriched: Enriched, keys: RowKeys, index: int, key: str) -> Checkpoint:
        with self.clock("checkpoint"):
            done = write_checkpoint(
                self.layout,
                self.ledger,
                (self.run, index, key),
                enriched.table.replace_schema_metadata(self.publisher.metadata),
                keys.flagged(enriched.rejected, REJECTED),
                enriched.computed,
                self.job.output.partition_columns,
                self.about,
            )
        self.poison.done(index)
        return done

    # -- after work

    def _publish(self, final: bool) -> None:
        self.last_published = time.monotonic()
        broken = self.rejects.broken_files if final else set()
        files = [file.path for file in self.setup.source.files] if final and self._read_whole else []
        with self.ahead.paused() if self.ahead else nullcontext(()) as on_their_way:
            published = self.publisher.publish(
                self.checkpoints,
                self.present.winners() if self.present else None,
                read_whole=[file for file in files if file not in broken],
                complete=final and self._complete(),
                final=final,
                on_their_way=on_their_way,
            )
        for text in published.notices:
            self._notice(text)
        if final:
            self.result.superseded += published.superseded
        self.result.published |= published.new
        self.result.version = published.number
        self.result.rows_in_dataset = published.rows
        self.result.part_files = published.files

    def _complete(self) -> bool:
        """Whether all of the job's input was read to its end: only then can a row be missing from it."""
        return self._read_whole and not self.rejects.broken_files and not self.setup.source.waiting

    def _judge(self) -> None:
        for name, rows in self.result.done.items():
            if not rows:
                spec = self.job.tasks[name]
                missing = "has a <mask>" if isinstance(spec, FillMask) else "has text"
                self._notice(f"Task '{name}' had nothing to do: no enriched row of '{spec.text}' {missing}.")
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
        known = provenance(self.setup) if self.result.device else {"models": {}, "versions": {}}
        record = run_record(
            self.result, self.job, started=started, finished=now(), limit=self.options.limit, provenance=known
        )
        try:
            write_run_file(self.layout.runs, self.run, record)
        except SecbatchError as error:
            # The run's own outcome matters more than its record; a full disk must not hide it.
            self._notice(f"The run's record could not be written: {error}")
