"""What an earlier try of a run has finished, and whether the input is still the one that it was given."""

from collections.abc import Callable

from secbatch.reuse import Looked, Reuse
from secbatch.store.checkpoints import whole
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Checkpoint
from secbatch.store.parts import readable


class EarlierTry:
    """Looks up shards among the checkpoints of a run; there are none where it is the first try."""

    def __init__(self, layout: Layout, ledger: Ledger, run: str, reuse: Reuse, notice: Callable[[str], None]) -> None:
        """`notice`: is told of a checkpoint that is damaged, or gone."""
        self._layout, self._ledger, self._run, self._reuse, self._notice = layout, ledger, run, reuse, notice
        self._reached = ledger.last_checkpoint(run)
        self.input_changed = False  # since then

    def finished(self, looked: Looked, key: str) -> Checkpoint | None:
        """The checkpoint of this shard, where it had these rows then. `key`: of `Reuse.key`."""
        done = self._ledger.checkpoint(self._run, looked.identified.shard.index)
        if not done or done.key != key:
            return None
        if whole(self._layout, done) and readable(self._layout.checkpoints / f"{done.part}.parquet"):
            return done
        self._notice(f"Checkpoint '{done.part}' is damaged, or gone; its rows are done again.")
        return None

    def takes_over(self, looked: Looked, key: str) -> bool:
        """Whether this shard, which is not finished, is the first to tell that the input has changed: then what the
        earlier try has done counts wherever its rows stand, and the shard is to be looked up again."""
        if self.input_changed:
            return False
        shard = looked.identified.shard.index
        done = self._ledger.checkpoint(self._run, shard)
        # Without a checkpoint before the last one, there was nothing to do when the input was cut as it was then.
        changed = done.key != key if done else shard < self._reached and not looked.match.kept.all()
        if changed:
            self.input_changed = True
            self._reuse.take_over_own(self._ledger, self._run)
        return changed
