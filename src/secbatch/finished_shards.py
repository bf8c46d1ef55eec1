"""Shards that are durable: counted, collected, and shown to readers."""

import time
from contextlib import nullcontext

from secbatch.publishing import Publisher
from secbatch.reporting import Reporter
from secbatch.reuse import KeptRows
from secbatch.run_context import RunContext
from secbatch.shard_lookup import ShardLookup
from secbatch.store.checkpoints import checkpoint_keys
from secbatch.store.ledger import Checkpoint
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
        self.job, self.layout, self.setup = context.job, context.layout, context.setup
        self.rejects, self.result, self.clock = context.rejects, context.result, context.clock
        self.progress, self.notice = context.progress, context.notice
        self.lookup, self.publisher, self.ahead, self.reporter = lookup, publisher, ahead, reporter
        self.present = Present(self.layout.scratch) if self.job.input.id or publisher.reuse.base else None
        self.checkpoints: list[Checkpoint] = []
        self.last_published, self._pause = time.monotonic(), PUBLISH_SECONDS

    def add(self, shard: int, kept: KeptRows, checkpoint: Checkpoint | None, enriched: Enriched | None = None) -> None:
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
        due = time.monotonic() - self.last_published > self._pause or self.result.shards == 1
        if due and not self.publisher.reuse.base and self.job.output.mode != "overwrite":
            with self.clock("publish"):
                self.publish(final=False)

    def _count(self, enriched: Enriched) -> None:
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
                on_their_way=on_their_way,
            )
        for text in published.notices:
            self.notice(text)
        if final:
            self.result.superseded += published.superseded
        self.result.published |= published.new
        self.result.version = published.number
        self.result.rows_in_dataset = published.rows
        self.result.part_files = published.files
        self.last_published = time.monotonic()
        self._pause = PUBLISH_SECONDS * max(1.0, (self.last_published - begin) / QUICK_SECONDS)
