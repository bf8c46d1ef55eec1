"""Results of texts that were seen before, however far apart: bounded on disk, and by a table in memory.

A set-associative table maps a text's 128-bit hash to a place in a ring of results in a file. It doubles when it is
filled, up to a bound of its own and one for the tables of all tasks together. Where the ring is full, the oldest
results give way; where a set is full, the oldest entry does. Losing one costs its computation again, never a wrong
result: a record carries the half of the hash of which the table holds nothing.
"""

import mmap
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from weakref import WeakSet

import numpy as np

from secbatch.models.sequences import spans
from secbatch.models.texts import Texts
from secbatch.row_hash import column_digests
from secbatch.tasks.text import DistinctTexts

WAYS = 16  # many: of two million texts 3.3% found a set of 4 full, 0.06% one of 16
SETS = 1 << 18  # 4 million texts; 48 MB
FEW = 1 << 10  # sets to begin with; 192 kB
SHARED = 8 * SETS  # sets of all tables of the process
FILLED = 4  # a table of which this part is taken may double: then hardly a text finds its set full
CAPACITY = 2 << 30  # bytes of results
FREE_SHARE = 20  # at most this fraction of the free disk
ALL_SHARE = 5  # and all together at most this one
WRITTEN = 1 << 20  # bytes of results that are laid out and written at a time

MANY = 64  # shards with more than this part of a shard's texts are waited for
PATIENCE = 5.0  # seconds

_TABLES: "WeakSet[Repeats]" = WeakSet()  # all that may have a table
_TABLES_MUTEX = threading.Lock()

_HEAD = np.dtype([("check", "<u8"), ("length", "<u4")])  # in front of each result


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """[n, 2] uint64: a 128-bit BLAKE2b of each text."""
    return column_digests(Texts.of(texts).column)


@dataclass(frozen=True)
class Recalled:
    """The different texts of a shard: first those that are new, then those whose results are known."""

    rows: np.ndarray  # [n] int64: which text a row has, -1 where there is nothing to do
    texts: Sequence[str]  # the new ones
    keys: np.ndarray  # [new, 2] uint64
    results: list[bytes]  # of the known ones
    known: Sequence[str] = ()  # the known ones

    def without_texts(self) -> "Recalled":
        """For shards that wait to be finished where the texts themselves are of no more use."""
        return replace(self, texts=(), known=())


def recall(distinct: DistinctTexts, repeats: "Repeats | None") -> Recalled:
    """Which of a shard's texts are to be computed; without `repeats`, all of them."""
    if repeats is None:
        return Recalled(distinct.rows, distinct.texts, np.zeros((0, 2), np.uint64), [])
    new = Recalled(distinct.rows, distinct.texts, text_keys(distinct.texts), [])
    return _less(new, repeats.find(new.keys))


def recall_again(recalled: Recalled, repeats: "Repeats") -> Recalled:
    """What is left to compute now that the shards before this one are done.

    To be called right before a shard is computed, in order. While it was encoded those shards were still on their
    way; where they hold many of its texts, their results are waited for.
    """
    if not len(recalled.keys) or not repeats.remembers:
        return recalled
    repeats.wait_for(recalled.keys)
    left = _less(recalled, repeats.find(recalled.keys))
    if len(left.keys):
        repeats.expect(left.keys)
    return left


def _less(recalled: Recalled, found: "dict[int, bytes]") -> Recalled:
    """With the results `found` for some of the new texts, by their place."""
    if not found:
        return recalled
    count, texts = len(recalled.texts), Texts.of(recalled.texts)
    known = np.zeros(count, bool)
    known[list(found)] = True
    new, old = np.flatnonzero(~known), np.flatnonzero(known)
    # Of each text in the new order; those that were known stay where they are, and the last: nothing to do.
    place = np.concatenate([np.empty(count, np.int64), np.arange(count, count + len(recalled.results)), [-1]])
    place[np.concatenate([new, old])] = np.arange(count)
    return Recalled(
        place[recalled.rows],
        texts.take(new),
        recalled.keys[new],
        [*(found[number] for number in old.tolist()), *recalled.results],
        [*texts.take(old), *recalled.known],
    )


class Repeats:
    """What was computed for each text, as bytes. Used by three threads: two find, one adds.

    `folder` holds the file of results, which has no name: a process that dies leaves nothing behind. A disk that
    refuses ends the memory of texts, not the run.
    """

    def __init__(self, folder: Path | None, sets: int = SETS, capacity: int = CAPACITY) -> None:
        self._folder, self._sets, self._capacity = folder, sets, capacity
        self._mutex = threading.Lock()
        self._added = threading.Condition(self._mutex)
        self._awaited: deque[np.ndarray] = deque()  # first halves of the keys of shards on their way, sorted
        self._file: IO[bytes] | None = None
        self._closed = folder is None
        self._head = 1  # where the next result goes, counted from the beginning of time; 0 is no place
        self._room = _room(0, np.uint32), _room(0, np.int64)
        self._tags, self._places = self._room  # what is in use of it
        self._entered = 0  # entries of the table, some of which the ring may have let go of
        if folder is not None:
            with _TABLES_MUTEX:
                _TABLES.add(self)

    def __reduce__(self) -> tuple[type["Repeats"], tuple[Path | None, int, int]]:
        return Repeats, (self._folder, self._sets, self._capacity)  # a copy elsewhere begins with nothing

    def find(self, keys: np.ndarray) -> dict[int, bytes]:
        """Results of those of `keys` [n, 2] that are known, by position."""
        with self._mutex:
            if self._file is None:
                return {}
            lines = self._lines(keys[:, 0])
            positions, ways = np.nonzero(self._tags[lines] == keys[:, 0, None].astype(np.uint32))
            places = self._places[lines[positions], ways]
            there = places > max(self._head - self._capacity, 0)
            found = {}
            for position, place in zip(positions[there].tolist(), places[there].tolist(), strict=True):
                result = self._read(place, int(keys[position, 1]))
                if result is not None:
                    found[position] = result
            return found

    @property
    def remembers(self) -> bool:
        return not self._closed

    def expect(self, keys: np.ndarray) -> None:
        """The next `add` but those that are expected already will be of a shard with these `keys` [n, 2]."""
        with self._mutex:
            self._awaited.append(np.sort(keys[:, 0]))

    def wait_for(self, keys: np.ndarray) -> None:
        """Returns when no shard is on its way that holds many of `keys` [n, 2]."""

        def free() -> bool:
            return not any(int(_in_sorted(keys[:, 0], one).sum()) * MANY > len(keys) for one in self._awaited)

        with self._mutex:  # not by way of `_added`, which takes it in Python: a signal that comes there leaves it taken
            if not self._added.wait_for(free, PATIENCE):
                self._awaited.clear()  # what is awaited will not come: a stage has failed

    def add(self, keys: np.ndarray, results: np.ndarray, lengths: np.ndarray) -> None:
        """Remembers results under `keys` [n, 2]: `results` uint8, one after another, `lengths` [n] int64."""
        with self._mutex:
            if not self._closed and len(keys):
                self._remember(keys, results, lengths)
            if self._awaited:
                self._awaited.popleft()
            self._added.notify_all()

    def _remember(self, keys: np.ndarray, results: np.ndarray, lengths: np.ndarray) -> None:
        try:
            self._open()
            places = self._append(keys[:, 1], results, lengths)
        except OSError:
            self._close()
            return
        if places is not None:
            self._make_room(len(places))
            self._enter(keys[:, 0], places)

    def _make_room(self, more: int) -> None:
        """Doubles the table until so many new entries do not fill it, as far as it may grow."""
        self._entered += more
        if self._is_filled() and self._may_double():
            # The ring may have let go of some. Looked for while the table can grow, not for each shard of a full one.
            self._entered = more + int(np.count_nonzero(self._places > max(self._head - self._capacity, 0)))
        while self._is_filled() and self._may_double():
            self._double()

    def _double(self) -> None:
        """In place, so that nothing is there twice: half of what lies in a set goes to the one that it becomes."""
        tags, places = self._room
        sets = len(self._tags)
        step = min(FEW, sets)
        for first in range(0, sets, step):
            one, other = slice(first, first + step), slice(sets + first, sets + first + step)
            moved = tags[one] % np.uint32(2 * sets) >= sets
            tags[other], places[other] = tags[one], places[one] * moved
            places[one] *= ~moved
        self._tags, self._places = tags[: 2 * sets], places[: 2 * sets]

    def _is_filled(self) -> bool:
        return self._entered > self._places.size // FILLED

    def _may_double(self) -> bool:
        sets = len(self._tags)
        with _TABLES_MUTEX:
            taken = sum(len(table._tags) for table in _TABLES)
        return 2 * sets <= self._sets and taken + sets <= SHARED

    def _enter(self, tags: np.ndarray, places: np.ndarray) -> None:
        """Each new entry takes the oldest way of its set."""
        lines = self._lines(tags)
        while len(lines):
            _, first = np.unique(lines, return_index=True)  # several of one set go one after another
            way = self._places[lines[first]].argmin(axis=1)
            self._places[lines[first], way] = places[first]
            self._tags[lines[first], way] = tags[first].astype(np.uint32)
            rest = np.ones(len(lines), bool)
            rest[first] = False
            lines, tags, places = lines[rest], tags[rest], places[rest]

    def _lines(self, tags: np.ndarray) -> np.ndarray:
        return (tags % np.uint64(len(self._tags))).astype(np.int64)

    def _open(self) -> None:
        if self._file is None:
            assert self._folder is not None
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="repeats-")  # noqa: SIM115
            share = max(FREE_SHARE, ALL_SHARE * len(_TABLES))
            self._capacity = min(self._capacity, shutil.disk_usage(self._folder).free // share)
            self._take(self._sets)

    def close(self) -> None:
        """No more is found or remembered, and its file and table are gone."""
        with self._mutex:
            self._close()

    def _close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()
        self._file = None
        self._take(0)

    def _take(self, sets: int) -> None:
        """Room for a table of so many sets, of which the first few are in use. Raises OSError where there is none.

        Half of a key's first half, uint32 [sets, WAYS], and its place, int64 [sets, WAYS].
        """
        self._room = tags, places = _room(sets, np.uint32), _room(sets, np.int64)
        self._tags, self._places = tags[:FEW], places[:FEW]

    def _append(self, checks: np.ndarray, results: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """The places of new records, written at once; None when they are too many for the ring."""
        assert self._file is not None
        size = _HEAD.itemsize
        ends = np.cumsum(lengths + size)
        total = int(ends[-1])
        if total > self._capacity // 2:
            return None
        starts = ends - lengths - size
        at = self._head % self._capacity
        if at + total > self._capacity:  # records do not wrap around the end
            self._head += self._capacity - at
            at = 0
        first = 0
        while first < len(lengths):  # a few at a time: no second copy of a shard's vectors
            begin = starts[first]
            last = max(first + 1, int(np.searchsorted(ends, begin + WRITTEN, side="right")))
            values = results[begin - first * size : ends[last - 1] - last * size]
            block = _records(checks[first:last], values, lengths[first:last])
            written = 0
            while written < len(block):
                written += os.pwrite(self._file.fileno(), block[written:].data, at + int(begin) + written)
            first = last
        places = self._head + starts
        self._head += total
        return places

    def _read(self, place: int, check: int) -> bytes | None:
        assert self._file is not None
        start = place % self._capacity
        record = os.pread(self._file.fileno(), 4096, start)
        head = np.frombuffer(record, _HEAD, count=1)[0]
        if int(head["check"]) != check:
            return None
        end = _HEAD.itemsize + int(head["length"])
        if end > len(record):
            record += os.pread(self._file.fileno(), end - len(record), start + len(record))
        return record[_HEAD.itemsize : end]


def _room(sets: int, kind: type[np.number]) -> np.ndarray:
    """[sets, WAYS] zeros, of which the system gives memory for those that are looked at alone, and has it back."""
    size = sets * WAYS * np.dtype(kind).itemsize
    own = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if size else b""
    return np.frombuffer(own, kind).reshape(sets, WAYS)


def forget(folder: Path) -> None:
    """Of a run that is over, whose results lay in `folder`: a caller's process may hold its tasks for long."""
    with _TABLES_MUTEX:
        over = [table for table in _TABLES if table._folder == folder]
    for table in over:
        table.close()


def _records(checks: np.ndarray, results: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint8: each result behind its head."""
    size = _HEAD.itemsize
    heads = np.empty(len(checks), _HEAD)
    heads["check"], heads["length"] = checks, lengths
    starts = np.cumsum(lengths + size) - lengths - size
    block = np.empty(len(results) + size * len(lengths), np.uint8)
    if (lengths == lengths[0]).all():  # as vectors are, which are long
        records = block.reshape(len(lengths), -1)
        records[:, :size], records[:, size:] = _bytes(heads), results.reshape(len(lengths), -1)
    else:
        block[(starts[:, None] + np.arange(size)).ravel()] = _bytes(heads).ravel()
        block[spans(starts + size, lengths)] = results
    return block


def _bytes(heads: np.ndarray) -> np.ndarray:
    """uint8 [n, size of a head]"""
    return heads.view(np.uint8).reshape(len(heads), -1)


def _in_sorted(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """bool [n]: which of `values` are among these, sorted."""
    places = np.minimum(np.searchsorted(among, values), len(among) - 1)
    return among[places] == values
