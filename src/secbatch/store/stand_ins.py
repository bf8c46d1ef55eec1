"""Rows that stand for equal ones whose name another file's row has taken.

Rows without ids are told apart by what stands in them and by a number among their equals in the input. Where the file
of the first of two equal rows is not in the input any more, the row of the other file is the first one now, and the
second name is not in the input: it seems to be the row that is gone. It stays and stands for that row, to which it is
equal but for its place, so that a file that is not in the input keeps its rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.store.checkpoints import checkpoint_keys
from secbatch.store.digest_pairs import find_pairs
from secbatch.store.layout import Layout
from secbatch.store.ledger_records import Checkpoint, Part
from secbatch.store.parts import RowGroups
from secbatch.store.pieces import ROW, SOURCE, Moved
from secbatch.store.present import KEPT, Winners, place_of, shard_of
from secbatch.store.row_keys import StoredKeys

PLACES = pa.schema([(SOURCE, pa.string()), (ROW, pa.int64())])


@dataclass(frozen=True)
class StandIns:
    """Looks through a base of rows without ids."""

    layout: Layout
    base: Sequence[Part]
    open_keys: Callable[[Part], StoredKeys]
    checkpoints: Sequence[Checkpoint]
    winners: Winners
    sources: Sequence[str]  # files that the run read whole: what the base has of them besides is gone

    def find(self) -> dict[str, Moved]:
        """By name of the part, rows whose own name is not in the input, with places of rows that are not either."""
        contents = self._contents(self._unnamed, None)
        contents = self._contents(self._renamed, contents) if len(contents) else contents
        if not len(contents):
            return {}
        rows = self._rows(contents)
        needed = ~rows["whole"] & ~self._in_input(rows)  # a file that is not read whole may lack the row or not
        free, wanted = rows[rows["absent"] & ~needed], rows[needed & ~rows["absent"]]
        # Of equal rows the first that is free stands for the first that needs one; those that else are gone come last.
        free = free[np.lexsort((free["whole"], free["content"]))]
        wanted = wanted[np.argsort(wanted["content"], kind="stable")]
        found = find_pairs(free["content"], _numbers(free["content"]), _pairs(wanted, _numbers(wanted["content"])))
        free, wanted = free[found[found >= 0]], wanted[found >= 0]
        order = np.lexsort((free["row"], free["part"]))
        return self._moved(free[order], wanted[order])

    def _contents(self, find: Callable[..., np.ndarray], among: np.ndarray | None) -> np.ndarray:
        """uint64 [c], ascending: what stands in the rows that `find` finds."""
        found = [np.empty(0, np.uint64)]
        for part in self.base:
            keys = self.open_keys(part)
            found.append(np.unique(np.asarray(keys.ids)[find(part, keys, among), 0]))
            keys.release()
        return np.unique(np.concatenate(found))

    def _unnamed(self, part: Part, keys: StoredKeys, among: None) -> np.ndarray:
        """int64 [n]: rows whose name is not in the input; but first ones, whose equals are not in it either."""
        ids = np.asarray(keys.ids)
        numbered = np.flatnonzero(ids[:, 1] != np.asarray(keys.column("content"))[:, 1])
        return numbered[self.winners.find(ids[numbered]) < 0]

    def _renamed(self, part: Part, keys: StoredKeys, among: np.ndarray) -> np.ndarray:
        """int64 [n]: rows whose name the input has at another place, though their own file was not read whole."""
        ids = np.asarray(keys.ids)
        rows = np.flatnonzero(_among(ids[:, 0], among))
        found = self.winners.find(ids[rows])
        there = found >= 0
        rows = rows[there][(self.winners.entries(found[there]) & KEPT) == 0]
        return rows[~self._whole(part, rows)]

    def _rows(self, contents: np.ndarray) -> np.ndarray:
        """All rows of the base in which this stands."""
        kinds = {"content": np.uint64, "place": np.uint64, "part": np.int64, "row": np.int64}
        made = np.dtype([*kinds.items(), ("whole", bool), ("absent", bool), ("kept", bool)])
        found = [np.empty(0, made)]
        for number, part in enumerate(self.base):
            keys = self.open_keys(part)
            ids = np.asarray(keys.ids)
            at = np.flatnonzero(_among(ids[:, 0], contents))
            names = self.winners.find(ids[at])
            rows = np.empty(len(at), made)
            rows["content"], rows["place"] = ids[at, 0], np.asarray(keys.column("place"))[at]
            rows["part"], rows["row"], rows["whole"], rows["absent"] = number, at, self._whole(part, at), names < 0
            rows["kept"] = names >= 0
            rows["kept"][names >= 0] = (self.winners.entries(names[names >= 0]) & KEPT) != 0
            found.append(rows)
            keys.release()
        return np.concatenate(found)

    def _in_input(self, rows: np.ndarray) -> np.ndarray:
        """bool [n]: whether the input has the row where it stands in the base."""
        contents = np.unique(rows["content"])
        starts = np.searchsorted(self.winners.ids, contents)
        stops = np.searchsorted(self.winners.ids, contents, side="right")
        counts = stops - starts
        named = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        entry = self.winners.entries(named)
        named, entry = named[(entry & KEPT) == 0], entry[(entry & KEPT) == 0]
        place, shards = np.empty(len(entry), np.uint64), shard_of(entry)
        order = np.argsort(shards, kind="stable")
        begins, ends = (
            np.searchsorted(shards[order], [one.shard for one in self.checkpoints], side) for side in ("left", "right")
        )
        for checkpoint, begin, end in zip(self.checkpoints, begins, ends, strict=True):
            own = order[begin:end]
            if len(own):
                place[own] = checkpoint_keys(self.layout, checkpoint).column("place")[place_of(entry[own])]
        there = np.stack([self.winners.ids[named], place], 1)
        there = np.concatenate([there, _pairs(rows[rows["kept"]], rows["place"][rows["kept"]])])
        there = there[np.lexsort((there[:, 1], there[:, 0]))]
        inside: np.ndarray = find_pairs(there[:, 0], there[:, 1], _pairs(rows, rows["place"])) >= 0
        return inside

    def _moved(self, free: np.ndarray, wanted: np.ndarray) -> dict[str, Moved]:
        """`free`: n rows in the order of the base; `wanted`: those whose places they are to have."""
        order = np.argsort(wanted["part"], kind="stable")
        parts, starts = np.unique(wanted["part"][order], return_index=True)
        groups = np.split(wanted["row"][order], starts[1:]) if len(parts) else []
        tables = [self._places(self.base[part], rows) for part, rows in zip(parts, groups, strict=True)]
        places = pa.concat_tables([PLACES.empty_table(), *tables]).take(pa.array(np.argsort(order)))
        made = {}
        for part in np.unique(free["part"]).tolist():
            low, high = np.searchsorted(free["part"], [part, part + 1])
            source, row = (places.column(name)[low:high].combine_chunks() for name in (SOURCE, ROW))
            made[self.base[part].name] = Moved(free["row"][low:high], source, row, wanted["place"][low:high])
        return made

    def _whole(self, part: Part, rows: np.ndarray) -> np.ndarray:
        """bool [n]: whether the run read the files of these rows to their end."""
        source, known = self._places(part, rows).column(0), pa.array(self.sources, pa.string())
        return np.asarray(pc.is_in(source, value_set=known).to_numpy())

    def _places(self, part: Part, rows: np.ndarray) -> pa.Table:
        if not len(rows):
            return PLACES.empty_table()
        return RowGroups().take(self.layout.parts / part.files[0], rows, PLACES.names).cast(PLACES)


def _pairs(rows: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint64 [n, 2]: the rows' contents, and something else of each."""
    return np.stack([rows["content"], second], 1)


def _among(halves: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """bool [n]: which of these stand among `contents`, ascending and some: searched, as these may be far more."""
    places = np.minimum(np.searchsorted(contents, halves), len(contents) - 1)
    there: np.ndarray = contents[places] == halves
    return there


def _numbers(content: np.ndarray) -> np.ndarray:
    """uint64 [n]: of each of these, which are sorted, how many equal ones come before it."""
    return (np.arange(len(content)) - np.searchsorted(content, content)).astype(np.uint64)
