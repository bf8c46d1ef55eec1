"""Shards on their way through encoding, the device, columns and checkpoints."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from secbatch.engines.in_order import InOrder
from secbatch.engines.local import LocalEngine
from secbatch.engines.read_ahead import read_ahead
from secbatch.engines.short_turns import short_turns
from secbatch.errors import Interrupted, OutOfTime, counted
from secbatch.finished_shards import FinishedShards
from secbatch.now_and_then import NowAndThen
from secbatch.poison import Poison
from secbatch.reuse import KeptRows
from secbatch.run_context import RunContext
from secbatch.shard_lookup import Item, ShardLookup
from secbatch.sources.piece import rows_bytes
from secbatch.store.checkpoints import write_checkpoint
from secbatch.store.ledger_records import Checkpoint
from secbatch.store.row_keys import REJECTED, UNANSWERED, RowKeys
from secbatch.task_keys import after_unanswered
from secbatch.task_specs import writes_here
from secbatch.tasks.base import RemoteTask
from secbatch.worker import Enriched, Work

SHARDS_AHEAD = 1  # read and looked up while the one before is tokenised
WRITERS = 2  # checkpoints that are written at a time: their bytes are on their way while the next are encoded
TELL_SECONDS = 1.0  # between two looks at how far the shards are that are underway
CUDA_WRITERS = 4  # two were at work all the time beside a GPU that makes 70,000 vectors a second
# Shards that others work on at a time. A server may take minutes for an answer, and all tries of a row a quarter of an
# hour: the shards after it go on meanwhile. They are small where answers are slow, and all of them may be in memory.
ASKED = 32
# Of rows that are underway, as they were read: from there on no more are, until some of them are durable. Each lies in
# memory several times. With a GPU that is what as many shards of SHARD_BYTES take as have something to do at a time.
HELD_BYTES, CUDA_HELD_BYTES = 256 << 20, 512 << 20


class ShardStages:
    """What a run's engine does with each shard."""

    def __init__(
        self,
        context: RunContext,
        lookup: ShardLookup,
        finished: FinishedShards,
        poison: Poison,
        about: dict[str, Any],
        metadata: dict[bytes, bytes],
    ) -> None:
        """`about`: what is noted with a checkpoint's row keys; `metadata`: of its rows' file."""
        self.run, self.job, self.layout, self.ledger = context.run, context.job, context.layout, context.ledger
        self.options, self.worker, self.sizes = context.options, context.setup.worker, context.sizes
        self.result, self.clock, self.progress = context.result, context.clock, context.progress
        self.notice = context.notice
        self.lookup, self.finished, self.poison = lookup, finished, poison
        self.about, self.metadata = about, metadata
        # A GPU is through a shard in a fifth of a second, and a disk may take longer than that for one.
        self._cuda = context.setup.compute.device.startswith("cuda")
        # Answers are written for all rows of a shard at once, and for few of them a model is slow.
        self._patient = any(map(writes_here, self.job.tasks.values()))
        self._one_is_through = False
        self._held: dict[int, int] = {}  # bytes of the rows of each shard that is underway
        self._most_held = CUDA_HELD_BYTES if self._cuda else HELD_BYTES
        self._loaded = False
        self._given_up = math.inf  # the first shard whose results were not waited for any more
        self._landed = 0.0  # monotonic time at which the results of the last shard were there

    def work(self) -> None:
        """Returns when every shard is durable; raises what went wrong in a stage, once the others have stopped."""
        engine: LocalEngine[Item, Item] = LocalEngine(
            self._encoded(lambda: engine.stopping),
            self._compute,
            self._finish,
            idle=lambda: self.writing.take_what_is_there(),
            end=lambda: self.writing.finish(),
            give_up=self._give_up,
            waiting=2 if self._cuda else 1,
            landing=ASKED if all(isinstance(task, RemoteTask) for task in self.worker.tasks.values()) else None,
        )
        turns = short_turns() if self._cuda else nullcontext()
        telling = NowAndThen(self.finished.tell, TELL_SECONDS, "tell")
        with (
            InOrder[Checkpoint | None](CUDA_WRITERS if self._cuda else WRITERS) as self.writing,
            self.poison,
            turns,
            telling,
        ):
            engine.run()

    def _encoded(self, stopped: Callable[[], bool]) -> Generator[Item, None, None]:
        looked_up = self._weighed(self.lookup.items(stopped))
        with closing(read_ahead(looked_up, SHARDS_AHEAD, stopped, "read", self._wanted)) as items:
            yield from self._encoded_each(items, stopped)

    def _weighed(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            if item.work is not None:
                self._held[item.shard] = rows_bytes(item.work.identified.shard.table)
            yield item
            del item

    def _wanted(self, number: int) -> bool:
        """Whether shard `number` is to be cut: not while its size is a guess that the first one, soon done, betters.

        Nor while those before it, one of which may be a single row, take as much memory as they may.
        """
        if sum(tuple(self._held.values())) >= self._most_held:
            return False
        return not self._patient or self._one_is_through or self.sizes.settled(number)

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
                if self.poison.loaded and not self.result.precisions:
                    self._models_known(self.poison.loaded.precisions, self.poison.loaded.notices)
                if enriched:
                    return replace(item, enriched=enriched)
                item = self.lookup.looked_up(item.identified)  # now without those that ended the process
        return item

    def _load(self) -> None:
        self.worker.load()
        self._loaded = True
        self._models_known(self.worker.precisions, self.worker.notices)

    def _models_known(self, precisions: dict[str, str | None], notices: tuple[str, ...]) -> None:
        self.result.precisions = precisions
        used = [one for one in precisions.values() if one]
        self.result.precision = ", ".join(dict.fromkeys(used)) or self.result.precision
        said = set(self.result.notices)
        for text in notices:
            if text not in said:
                self.notice(text)

    def _compute(self, item: Item) -> Item:
        self._stop_in_time()
        if item.work is None or item.enriched:
            return item
        begin = time.monotonic()
        # Those that are kept are done with the others.
        rows = item.work.identified.shard.num_rows + len(item.kept.ids)
        work_done = self.progress.underway.begin(item.shard, rows)
        with self.clock("device"), work_done.in_hand():
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
                f"Stopped at the time that was asked for, with {counted(done, 'row')} done and about {1 - share:.0%}"
                " of the input left; run the same command again to go on"
            )

    def _finish(self, item: Item) -> None:
        shard, kept, keys = item.shard, item.kept, item.written
        if item.work is None or keys is None:
            known, self._one_is_through = item.checkpoint, True
            self.writing.give(lambda: known, lambda done: self._durable(shard, kept, done))
            return
        try:
            enriched, key = item.enriched or self._finished(item.work, item.began, item.ended), item.key
        except Interrupted:
            self._given_up = min(self._given_up, shard)
            raise
        self._one_is_through = True
        del item  # nothing else of it is held while writers are waited for
        self.writing.give(
            lambda: self._checkpoint(enriched, keys, shard, key),
            lambda done: self._durable(shard, kept, done, enriched),
        )

    def _durable(
        self, shard: int, kept: KeptRows, checkpoint: Checkpoint | None, enriched: Enriched | None = None
    ) -> None:
        if shard < self._given_up:  # those after it are checkpoints for the next try, which takes shards in their order
            self.finished.add(shard, kept, checkpoint, enriched)
        self._held.pop(shard, None)

    def _finished(self, work: Work, began: float, ended: float) -> Enriched:
        landed = self.worker.land(work)
        there = ended if landed is work else time.monotonic()  # nothing was on its way: it was all there then
        # A GPU begins with a shard while it is at work on the one before. Shards that have waited for this thread land
        # one right after another, which says nothing of the device.
        seconds = max(ended - began, there - max(began, self._landed))
        self.sizes.measured(landed.identified.shard.num_rows, seconds)
        self._landed = there
        with self.clock("finish"):
            enriched = self.worker.finish(landed)
        self.sizes.weighed(enriched.table.num_rows, self.worker.result_bytes(enriched))
        return enriched

    def _checkpoint(self, enriched: Enriched, keys: RowKeys, index: int, key: str) -> Checkpoint:
        done = after_unanswered(self.worker.tasks, keys.done, enriched.table, enriched.unanswered)
        unanswered = np.logical_or.reduce([(keys.flags & UNANSWERED) != 0, *enriched.unanswered.values()])
        keys = replace(keys, done=done).flagged(unanswered, UNANSWERED).flagged(enriched.rejected, REJECTED)
        with self.clock("checkpoint"):
            checkpoint = write_checkpoint(
                self.layout,
                self.ledger,
                (self.run, index, key),
                enriched.table.replace_schema_metadata(self.metadata),
                keys,
                enriched.computed,
                self.job.output.partition_columns,
                self.about,
            )
        self.poison.done(index)
        return checkpoint
