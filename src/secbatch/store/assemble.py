"""Which rows make the next version: this run's, what stays of the base version, and what a later row replaced."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.store.checkpoints import checkpoint_keys
from secbatch.store.documents import first_sentences, of_earlier_shards
from secbatch.store.layout import Layout
from secbatch.store.ledger_records import Checkpoint, Part
from secbatch.store.parts import RowGroups
from secbatch.store.pieces import Moved, Piece
from secbatch.store.present import KEPT, Winners, place_of, shard_of
from secbatch.store.row_keys import REJECTED, REMOVED, StoredKeys
from secbatch.store.stand_ins import StandIns
from secbatch.store.unnamed import are_place_names

Removed = Literal["keep", "mark", "drop"]


@dataclass
class Assembled:
    """Pieces of the next version in their order, and those of superseded rows."""

    pieces: list[Piece] = field(default_factory=list)
    superseded: list[Piece] = field(default_factory=list)
    superseded_rows: int = 0  # of this run's input, those that the base has included
    superseded_rejected: int = 0  # of these, rejected ones
    superseded_computed: int = 0  # of these, those that this run has worked on
    removed: int = 0  # rows of the base that are dropped, or marked anew
    marked: int = 0  # of these, the marked ones
    added: int = 0  # rows whose identity the base does not have
    found: int = 0  # rows of the base whose identity is in this run's input


@dataclass(frozen=True)
class Assembly:
    """Puts versions together for one run."""

    layout: Layout
    open_keys: Callable[[Part], StoredKeys]
    schema: str  # name of the columns that parts are to have
    run: str
    tasks: dict[str, list[str]]  # of this run's rows: task -> fingerprints
    named: bool  # rows have ids: only a rejected one without is known by its place
    sentences: bool  # rows are sentences of documents that have ids
    limited: bool  # the last document may have been read in part
    mending: bool  # a retry: what is rejected is done again, and nothing else is taken away
    worked_on: Collection[int]  # shards whose checkpoints this run has made since it was started

    def assemble(
        self,
        base: Sequence[Part],
        checkpoints: Sequence[Checkpoint],
        winners: Winners | None,
        removed: Removed,
        replaced_sources: Sequence[str],
    ) -> Assembled:
        """`winners` None: every row of the checkpoints has an identity of its own, and there is no base.

        `removed`: what becomes of rows that are not in the input; those that have no id, of `replaced_sources`, which
        this run read whole, are dropped in any case; by a run that is `mending`, only rejected ones. So are sentences
        that their document no longer has.
        """
        result = Assembled()
        standing: dict[str, Moved] = {}
        if winners is not None and removed != "drop" and not self.named and not self.mending:
            standing = StandIns(self.layout, base, self.open_keys, checkpoints, winners, replaced_sources).find()
        for part in base:
            assert winners is not None
            self._from_base(part, winners, removed, replaced_sources, standing.get(part.name), result)
        for checkpoint in checkpoints:
            self._from_checkpoint(checkpoint, winners, result)
        if winners is not None:
            result.added = len(winners.ids) - result.found
            result.superseded_rows += len(winners.lost)
        return result

    def _from_base(
        self,
        part: Part,
        winners: Winners,
        removed: Removed,
        replaced_sources: Sequence[str],
        standing: Moved | None,
        result: Assembled,
    ) -> None:
        keys = self.open_keys(part)
        places = winners.find(np.asarray(keys.ids))
        present = places >= 0
        stays = np.zeros(keys.rows, bool)
        stays[present] = (winners.entries(places[present]) & KEPT) != 0
        replaced = self._replaced_in_base(part, places, winners)
        replaced_kept = stays & replaced
        present &= ~replaced
        stays &= ~replaced
        absent = ~present
        result.found += int(present.sum())
        gone = np.zeros(keys.rows, bool)
        if absent.any() and removed == "drop":
            gone = absent
        elif absent.any() and replaced_sources and not self.named and not self.mending:
            gone = absent & self._from_sources(part, replaced_sources)
        # A row without id has another place as soon as a line is added above it, or other content once it is mended:
        # it is not lost.
        moved = self._moved(part, keys, absent, replaced_sources)
        gone = gone | moved | self._cut_out(part, absent & ~gone, winners)
        if standing is not None:
            gone[standing.rows] = False
        marked = absent & ~gone & ((keys.flags & REMOVED) == 0) if removed == "mark" else np.zeros(keys.rows, bool)
        result.removed += int((gone & ~moved).sum() + marked.sum())
        result.marked += int(marked.sum())
        taken = (stays | absent) & ~gone
        piece = self._piece(part, keys, taken, marked, standing)
        result.pieces.append(piece)
        result.superseded_rows += int(replaced_kept.sum())
        lost = (winners.lost_in_base(np.asarray(keys.ids)) & present & ~stays) | (replaced_kept & gone)
        if lost.any():
            result.superseded_rejected += _rejected(keys.flags[lost])
            result.superseded.append(self._piece(part, keys, lost, None))
        keys.give_back()  # pieces name it; what they are written from is looked at again

    def _piece(
        self,
        part: Part,
        keys: StoredKeys,
        taken: np.ndarray,
        marked: np.ndarray | None,
        standing: Moved | None = None,
    ) -> Piece:
        file = self.layout.parts / part.files[0]
        size = part.size or file.stat().st_size
        unchanged = bool(taken.all()) and (marked is None or not marked.any()) and standing is None
        return Piece(
            part.name,
            file,
            keys,
            # A task that the job has no longer takes its columns with it: its results are not there to be taken over.
            {name: fingerprints for name, fingerprints in part.tasks.items() if name in self.tasks},
            part.name.rpartition("/")[0],
            0,
            keys.rows,
            int(size * taken.mean()) if len(taken) else 0,
            None if taken.all() else taken,
            marked if marked is not None and marked.any() else None,
            part if unchanged and keys.about.get("schema") == self.schema else None,
            standing,
        )

    def _from_sources(self, part: Part, sources: Sequence[str]) -> np.ndarray:
        rows = RowGroups().take(self.layout.parts / part.files[0], np.arange(part.rows), ["secbatch_source"])
        found = pc.is_in(rows.column(0).cast(pa.string()), value_set=pa.array(sources, pa.string()))
        return np.asarray(found.to_numpy())

    def _cut_out(self, part: Part, absent: np.ndarray, winners: Winners) -> np.ndarray:
        """bool [n]: sentences, out of `absent`, whose documents are in the input without them."""
        found = np.zeros(len(absent), bool)
        candidates = np.flatnonzero(absent)
        if self.sentences and not self.limited and len(candidates):
            names = _names(self.layout.parts / part.files[0], candidates)
            found[candidates] = winners.find(first_sentences(names)) >= 0
        return found

    def _replaced_in_base(self, part: Part, places: np.ndarray, winners: Winners) -> np.ndarray:
        """bool [n]: sentences at `places` (int64 [n]) of the winners that a later document of their name lacks."""
        found = np.zeros(len(places), bool)
        candidates = np.flatnonzero(places >= 0)
        if self.sentences and len(winners.lost) and len(candidates):
            names = _names(self.layout.parts / part.files[0], candidates)
            found[candidates] = of_earlier_shards(names, shard_of(winners.entries(places[candidates])), winners)
        return found

    def _moved(self, part: Part, keys: StoredKeys, absent: np.ndarray, sources: Sequence[str]) -> np.ndarray:
        """bool [n]: rows of these files, out of `absent`, that stand in the input under another name."""
        if self.named or not self.mending:
            return self._known_by_place(part, keys, absent, sources)
        found = absent & ((keys.flags & REJECTED) != 0)
        return found & self._from_sources(part, sources) if found.any() and sources else np.zeros(keys.rows, bool)

    def _known_by_place(self, part: Part, keys: StoredKeys, absent: np.ndarray, sources: Sequence[str]) -> np.ndarray:
        """bool [n]: rows of these files, out of `absent`, that should have had an id and have none."""
        found = np.zeros(keys.rows, bool)
        candidates = np.flatnonzero(absent & ((keys.flags & REJECTED) != 0))
        if self.named and sources and len(candidates):
            columns = ["secbatch_id", "secbatch_source", "secbatch_row"]
            rows = RowGroups().take(self.layout.parts / part.files[0], candidates, columns)
            unnamed = are_place_names(*(rows.column(name) for name in columns))
            here = pc.is_in(rows.column(1).cast(pa.string()), value_set=pa.array(sources, pa.string()))
            found[candidates] = np.asarray(pc.and_(unnamed, here).to_numpy())
        return found

    def _from_checkpoint(self, checkpoint: Checkpoint, winners: Winners | None, result: Assembled) -> None:
        lost = np.zeros(checkpoint.rows, bool)
        if winners is not None:
            losers = winners.lost_of(checkpoint.shard)
            lost[place_of(losers[(losers & KEPT) == 0])] = True
            if self.sentences and len(winners.lost) and not lost.all():
                left = np.flatnonzero(~lost)
                names = _names(self.layout.checkpoints / f"{checkpoint.part}.parquet", left)
                replaced = of_earlier_shards(names, np.full(len(left), checkpoint.shard), winners)
                lost[left] = replaced
                result.superseded_rows += int(replaced.sum())
        if lost.any():
            result.superseded_rejected += _rejected(checkpoint_keys(self.layout, checkpoint).flags[lost])
            result.superseded_computed += self._computed(checkpoint, np.flatnonzero(lost))
        for mask, target in ((~lost, result.pieces), (lost, result.superseded)):
            target += checkpoint_pieces(self.layout, checkpoint, self.tasks, mask)

    def _computed(self, checkpoint: Checkpoint, rows: np.ndarray) -> int:
        """How many of a checkpoint's rows (int64 [n]) a task was computed for since this run was started."""
        if checkpoint.shard not in self.worked_on:
            return 0
        if checkpoint.enriched in (0, checkpoint.rows):
            return min(checkpoint.enriched, len(rows))
        runs = RowGroups().take(self.layout.checkpoints / f"{checkpoint.part}.parquet", rows, ["secbatch_run"])
        mine = pc.equal(runs.column(0).cast(pa.string()), self.run)
        # Where the input has changed since the run was begun, some were computed then.
        return min(checkpoint.enriched, int(pc.sum(mine).as_py() or 0))


def _names(file: Path, rows: np.ndarray) -> pa.ChunkedArray:
    """The names of the rows at these positions (int64 [n])."""
    return RowGroups().take(file, rows, ["secbatch_id"]).column(0)


def _rejected(flags: np.ndarray) -> int:
    return int(np.count_nonzero(flags & REJECTED))


def checkpoint_pieces(
    layout: Layout, checkpoint: Checkpoint, tasks: dict[str, list[str]], wanted: np.ndarray
) -> list[Piece]:
    """A piece for each partition that the rows `wanted` (bool [n]) of a checkpoint fall into."""
    keys = checkpoint_keys(layout, checkpoint)
    file = layout.checkpoints / f"{checkpoint.part}.parquet"
    width = checkpoint.size / max(1, keys.rows)
    pieces = []
    for folder, start, stop in checkpoint.folders:
        taken = wanted[start:stop]
        if taken.any():
            chosen, size = None if taken.all() else taken, int(width * taken.sum())
            pieces.append(Piece(checkpoint.part, file, keys, tasks, folder, start, stop, size, chosen))
    return pieces
