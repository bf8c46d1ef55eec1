"""From the input to shards of which it is known what is done and what is left for the models."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from secbatch.earlier_try import EarlierTry
from secbatch.errors import OutputError, counted
from secbatch.identity import Identified, Identities
from secbatch.poison import Poison
from secbatch.reuse import KeptRows, Reuse
from secbatch.run_context import RunContext
from secbatch.shards import input_shards
from secbatch.sources.shard import Shard
from secbatch.store.ledger_records import Checkpoint
from secbatch.store.row_keys import RowKeys
from secbatch.worker import Enriched, Work


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
    written: RowKeys | None = None  # the same, as `Looked` has them
    enriched: Enriched | None = None  # what the rows of `work` became, where that is known before any stage
    began: float = 0.0  # monotonic time at which the device was given `work`
    ended: float = 0.0  # and at which it could be given more


class ShardLookup:
    """Reads shards, names their rows and looks them up."""

    def __init__(self, context: RunContext, reuse: Reuse, poison: Poison) -> None:
        self.run, self.job, self.layout, self.ledger = context.run, context.job, context.layout, context.ledger
        self.options, self.setup, self.sizes = context.options, context.setup, context.sizes
        self.rejects, self.result, self.clock = context.rejects, context.result, context.clock
        self.reuse, self.poison = reuse, poison
        self._mutex = threading.Lock()  # shards are read ahead while one in which a row ends the process is tried
        self.identities = Identities.of(context.job, self.layout.scratch)
        self.earlier = EarlierTry(self.layout, self.ledger, self.run, reuse, context.notice)
        self.read_whole = False  # whether all of the job's input was asked for and given out

    def check_recompute(self) -> None:
        """Raises OutputError before a changed task has more rows done again than the job allows."""
        most = self.job.max_recompute
        if most is None or self.reuse.outdated_rows() <= most:
            return
        # Only rows of this input are done again, so these are counted: it costs one more reading of the input.
        rows = 0
        scratch = self.layout.scratch / "recompute"
        identities = Identities.of(self.job, scratch)
        for shard in input_shards(self.setup, scratch, self.options.limit):
            if shard.num_rows:
                rows += self.reuse.redone(self.reuse.look(identities.name(shard)))
            if rows > most:
                raise OutputError(
                    f"More than {counted(most, 'row')} that {'is' if most == 1 else 'are'} done would be done again,"
                    " because a task's parameters or model have changed (max_recompute); nothing was computed. If that"
                    " is meant, raise `max_recompute`, or leave it out."
                )

    def _shards(self, stopped: Callable[[], bool]) -> Iterator[Shard]:
        spill = self.layout.scratch / "conversations"
        yield from self.clock.each("read", input_shards(self.setup, spill, self.options.limit, stopped))
        self.read_whole = self.options.limit is None and (self.options.retry or not self.options.partial)

    def items(self, stopped: Callable[[], bool]) -> Iterator[Item]:
        """Shards read, their rows named and looked up."""
        for shard in self._shards(stopped):
            self.rejects.add(shard.rejects)
            self.result.read += shard.num_rows + shard.superseded
            self.result.superseded += shard.superseded
            if not shard.num_rows:
                continue
            with self.clock("identify"):
                identified = self.identities.name(shard)
                self.result.superseded += identified.superseded
                item = self.looked_up(identified)
            del shard, identified
            yield item
            del item

    def looked_up(self, identified: Identified) -> Item:
        """Without rows that are known to end the process; also for a shard that was looked up before. Any thread."""
        with self._mutex:
            return self._looked_up(identified)

    def _looked_up(self, identified: Identified) -> Item:
        looked = self.reuse.look(identified)
        while poison := self.poison.errors(looked.keys):  # a turn that is left out is no history of those after it
            looked = self.reuse.look(looked.identified.with_errors(poison))
        key, item = self.reuse.key(looked), Item(identified.shard.index, looked.kept, looked.identified)
        if done := self.earlier.finished(looked, key):
            return replace(item, checkpoint=done)
        if self.earlier.takes_over(looked, key):
            return self._looked_up(identified)
        todo = self.reuse.work(looked)
        if todo is None:
            return item
        self.sizes.record()
        work, keys, written = todo
        return replace(item, key=key, work=work, keys=keys, written=written)

    def complete(self) -> bool:
        """Whether all of the job's input was read to its end: only then can a row be missing from it."""
        whole = self.read_whole and not self.options.partial
        return whole and not self.rejects.broken_files and not self.setup.source.waiting
