"""Shards that are durable: counted, collected, and shown to readers."""

import threading
import time
from contextlib import nullcontext

from secbatch.publishing import Publisher
from secbatch.reporting import Reporter
from secbatch.reuse import KeptRows
from secbatch.run_context import RunContext
from secbatch.shard_lookup import ShardLookup
from secbatch.store.checkpoints import checkpoint_keys
from secbatch.store.ledger_records import Checkpoint
from secbatch.store.parts_ahead import PartsAhead
from secbatch.store.present import Present
from secbatch.worker import Enriched

PUBLISH_SECONDS = 600.0  # how often a first run shows what it has so far
# As long as it takes no longer than this. What is shown grows, and with many partitions all of it is written anew: a
# publication that takes longer is followed by as much more of work.
QUICK_SECONDS = 30.0


class FinishedShards:
    """Takes the shards of a run as they get done, in their order, and publishes them."""

    def __init__(
        self,
        context: RunContext,
        lookup: ShardLookup,
        publisher: Publisher,
        ahead: PartsAhead | None,
        reporter: Reporter,
    ) -> None:
        """`ahead`: writes parts while the run goes on, where that can be done."""
        self._said: set[str] = set()  # what has held up shards
        self._mutex = threading.Lock()  # a shard is counted, and the run told of, by one thread at a time
        self.job, self.layout, self.setup = context.job, context.layout, context.setup
        self.rejects, self.result, self.clock = context.rejects, context.result, context.clock
        self.progress, self.notice = context.progress, context.notice
        self.lookup, self.publisher, self.ahead, self.reporter = lookup, publisher, ahead, reporter
        among_others = publisher.reuse.base or publisher.reuse.shows_own
        self.present = Present(self.layout.scratch) if self.job.input.id or among_others else None
        self.options = context.options
        self.checkpoints: list[Checkpoint] = []
        self.worked_on: set[int] = set()  # shards whose checkpoints this try has made
        self.last_published, self._pause = time.monotonic(), PUBLISH_SECONDS

    def add(self, shard: int, kept: KeptRows, checkpoint: Checkpoint | None, enriched: Enriched | None = None) -> None:
        """A shard is durable. `enriched`: where this try has made its checkpoint."""
        with self._mutex:
            self._count(kept, checkpoint, enriched)
            self.progress.underway.end(shard)
        if checkpoint:
            self.checkpoints.append(checkpoint)
            if self.ahead:
                self.ahead.add(checkpoint, enriched and enriched.table)
        if self.present:
            # Only now: a version shows the rows of finished shards alone.
            ids = checkpoint_keys(self.layout, checkpoint).ids if checkpoint else kept.ids[:0]
            self.present.add(shard, ids, kept.ids)
        self.result.shards += 1
        self.tell()
        due = time.monotonic() - self.last_published > self._pause or self.result.shards == 1
        if due and self.publisher.reuse.first and self.job.output.mode != "overwrite":
            with self.clock("publish"):
                self.publish(final=False)

    def tell(self) -> None:
        """Tells whoever follows the run how far it is, and what holds it up. From any thread."""
        with self._mutex:
            self.reporter.progress(
                self.result.enriched + self.result.reused,
                self.result.rejected + self.rejects.count,
                self.progress.reached(),
            )
            held_up = self.progress.underway.held_up()
            if held_up and held_up not in self._said:
                self._said.add(held_up)
                self.notice(held_up)

    def _count(self, kept: KeptRows, checkpoint: Checkpoint | None, enriched: Enriched | None) -> None:
        self.result.reused += len(kept.ids)
        self.result.rejected += kept.rejected
        if checkpoint is None:
            return
        self.result.rejected += checkpoint.rejected
        if enriched is None:
            self.result.reused += checkpoint.rows
            return
        self.worked_on.add(checkpoint.shard)
        self.result.reused += checkpoint.rows - checkpoint.enriched
        self.result.enriched += checkpoint.enriched
        if checkpoint.enriched:
            for name, rows in enriched.done.items():
                self.result.done[name] = self.result.done.get(name, 0) + rows
        self.result.tokens += enriched.tokens
        self.result.padding += enriched.padding

    def publish(self, final: bool) -> None:
        """Shows readers what is done. `final`: nothing more comes, so the base's rows are settled, too."""
        begin = time.monotonic()
        broken = self.rejects.broken_files if final else set()
        files = [file.path for file in self.setup.source.files] if final and self.lookup.read_whole else []
        with self.ahead.paused() if self.ahead else nullcontext(()) as on_their_way:
            published = self.publisher.publish(
                self.checkpoints,
                self.present.winners() if self.present else None,
                read_whole=[file for file in files if file not in broken],
                complete=final and self.lookup.complete(),
                final=final,
                limited=self.options.limit is not None,
                mending=self.options.retry,
                input_changed=self.lookup.earlier.input_changed,
                worked_on=self.worked_on,
                on_their_way=on_their_way,
            )
        for text in published.notices:
            self.notice(text)
        if final:
            # They are not in the dataset. Those of one shard were left out before it was looked up.
            self.result.superseded += published.superseded
            self.result.enriched -= published.superseded_computed
            self.result.reused -= published.superseded - published.superseded_computed
            self.result.rejected -= published.superseded_rejected
        self.result.published |= published.new
        self.result.version = published.number
        self.result.rows_in_dataset = published.rows
        self.result.part_files = published.files
        self.last_published = time.monotonic()
        self._pause = PUBLISH_SECONDS * max(1.0, (self.last_published - begin) / QUICK_SECONDS)
