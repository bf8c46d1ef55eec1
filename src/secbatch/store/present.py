"""Who is in this run's input: 24 bytes a row, in memory while they are few and in files otherwise."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secbatch.store.digest_pairs import find_pairs
from secbatch.store.mapped import MappedNumbers

IN_MEMORY = 1 << 20  # rows held before they are spilled
BUCKETS = 256  # files; each is sorted in memory, so it holds a 256th of the rows
SPILL_ROWS = 1 << 17  # rows that wait for the files once these are in use
LOOKED_AT = 1 << 20  # rows of files that are in memory at a time while some are looked up: 16 MiB
ROW = np.dtype([("id", np.uint64), ("rest", np.uint64), ("entry", np.uint64)])
KEPT = np.uint64(1)  # the lowest bit of an entry: the row stands in the base version already, as it is


def entries(shard: int, places: np.ndarray, kept: bool) -> np.ndarray:
    """uint64 [n]: shard, place in it, and whether the row stands in the base; later rows have larger entries."""
    return (np.uint64(shard) << np.uint64(32)) | (places.astype(np.uint64) << np.uint64(1)) | np.uint64(kept)


def place_of(entry: np.ndarray) -> np.ndarray:
    return ((entry & np.uint64(0xFFFFFFFF)) >> np.uint64(1)).astype(np.int64)


def shard_of(entry: np.ndarray) -> np.ndarray:
    return (entry >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Winners:
    """Every identity of the input once, sorted, with the entry of its last row; and the entries that lost."""

    ids: np.ndarray  # uint64 [m], ascending: first halves of the identities
    rest: np.ndarray  # uint64 [m]: their second halves
    entry: np.ndarray  # uint64 [m]
    lost: np.ndarray  # uint64 [l], ascending
    lost_kept: np.ndarray  # ROW [k]: those of the lost that stand in the base, sorted by both halves
    mapped: tuple[MappedNumbers, ...] = ()  # the files of the first three, where they are in files

    def find(self, ids: np.ndarray) -> np.ndarray:
        """int64 [n]: the place of each identity (uint64 [n, 2]) in `ids`, -1 for one that is not in the input."""
        found = np.empty(len(ids), np.int64)
        for some in self._stretches(ids[:, 0]):
            found[some] = find_pairs(self.ids, self.rest, ids[some])
        return found

    def entries(self, places: np.ndarray) -> np.ndarray:
        """uint64 [n]: the entries at these places (int64 [n])."""
        entries = np.empty(len(places), np.uint64)
        for some in self._stretches(places):
            entries[some] = self.entry[places[some]]
        return entries

    def _stretches(self, keys: np.ndarray) -> Iterator[np.ndarray | slice]:
        """Positions of `keys` [n], of which neighbours are looked up together; files are let go of in between."""
        if not self.mapped:
            yield slice(None)
            return
        for some in np.array_split(np.argsort(keys), -(-len(self.ids) // LOOKED_AT)):
            yield some
            for numbers in self.mapped:
                numbers.give_back(0, len(numbers.values))

    def lost_in_base(self, ids: np.ndarray) -> np.ndarray:
        """bool [n]: an earlier row with that identity is the one that stands in the base."""
        found: np.ndarray = find_pairs(self.lost_kept["id"], self.lost_kept["rest"], ids) >= 0
        return found

    def lost_of(self, shard: int) -> np.ndarray:
        """Entries of one shard's rows that lost."""
        low = np.uint64(shard) << np.uint64(32)
        start, stop = np.searchsorted(self.lost, [low, low + (np.uint64(1) << np.uint64(32))])
        return self.lost[start:stop]


class Present:
    """Collects the identities of the rows whose shards are finished."""

    def __init__(self, folder: Path) -> None:
        """`folder`: scratch, made when needed, removed by the caller."""
        self._folder = folder
        self._held: list[np.ndarray] = []
        self._held_rows = 0
        self._spilled = False

    def add(self, shard: int, written: np.ndarray, kept: np.ndarray) -> None:
        """Identities (uint64 [n, 2]) of a shard: in the order of its checkpoint, and of rows that stay as they are.

        Shards come in ascending order.
        """
        rows = np.empty(len(written) + len(kept), ROW)
        ids = np.concatenate([written, kept])
        rows["id"], rows["rest"] = ids[:, 0], ids[:, 1]
        rows["entry"][: len(written)] = entries(shard, np.arange(len(written)), False)
        rows["entry"][len(written) :] = entries(shard, np.arange(len(kept)), True)
        self._held.append(rows)
        self._held_rows += len(rows)
        if self._held_rows > (SPILL_ROWS if self._spilled else IN_MEMORY):
            self._spill()

    def _spill(self) -> None:
        if not self._held:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spilled = True
        rows = np.concatenate(self._held)
        self._held, self._held_rows = [], 0
        bucket = (rows["id"] >> np.uint64(56)).astype(np.uint8)
        order = np.argsort(bucket, kind="stable")
        rows, starts = rows[order], np.searchsorted(bucket[order], np.arange(BUCKETS + 1))
        for number in range(BUCKETS):
            if starts[number] < starts[number + 1]:
                with self._bucket(number).open("ab") as file:
                    file.write(rows[starts[number] : starts[number + 1]].tobytes())

    def _bucket(self, number: int) -> Path:
        return self._folder / f"present-{number:03d}"

    def winners(self) -> Winners:
        """The last row of each identity so far; more rows may be added afterwards."""
        if not self._spilled:
            won, lost = _last_of_each(np.concatenate([np.empty(0, ROW), *self._held]))
            ids, rest, entry = (np.ascontiguousarray(won[name]) for name in ROW.names or ())
            return Winners(ids, rest, entry, np.sort(lost["entry"]), lost[(lost["entry"] & KEPT) != 0])
        self._spill()
        files = [self._folder / f"winners-{name}" for name in ROW.names or ()]
        losers, kept = [], []
        with files[0].open("wb") as one, files[1].open("wb") as two, files[2].open("wb") as three:
            for number in range(BUCKETS):
                if self._bucket(number).exists():
                    won, lost = _last_of_each(np.fromfile(self._bucket(number), ROW))
                    for file, name in ((one, "id"), (two, "rest"), (three, "entry")):
                        file.write(won[name].tobytes())
                    losers.append(lost["entry"])
                    kept.append(lost[(lost["entry"] & KEPT) != 0])
        mapped = tuple(MappedNumbers(file, np.uint64) for file in files)
        first, second, entries_ = (numbers.values for numbers in mapped)
        return Winners(first, second, entries_, np.sort(np.concatenate(losers)), np.concatenate(kept), mapped)


def _last_of_each(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted by identity, the last row of each; and the others."""
    rows = rows[np.lexsort((rows["entry"], rows["rest"], rows["id"]))]
    if not len(rows):
        return rows, rows
    same = (rows["id"][1:] == rows["id"][:-1]) & (rows["rest"][1:] == rows["rest"][:-1])
    last = np.append(~same, True)
    return rows[last], rows[~last]
