"""What the store knows of each row besides its columns: who it is, what stands in it, what is done."""

import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from secbatch.errors import OutputError
from secbatch.store import checksums
from secbatch.store.digest_pairs import find_pairs
from secbatch.store.durable_files import DurableFiles, write_atomically
from secbatch.store.filesystem import WatchedFile, explain_read
from secbatch.store.filters import Asked, filter_of, words_for

MAGIC = b"secbatch keys 4\n"  # two bits away from:
UNSUMMED = b"secbatch keys 1\n"  # of files without a checksum, which earlier releases have written
FOOTER_BYTES = 4
BLOCK = 1 << 15  # rows whose keys are copied, or brought into order, at a time
FEW = 64  # a search for fewer than this part of the rows does not bring all keys into order
COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {  # and what each task has done
    "ids": (np.uint64, (2,)),
    "content": (np.uint64, (2,)),
    "place": (np.uint64, ()),
    "flags": (np.uint8, ()),
}
REJECTED, REMOVED = np.uint8(1), np.uint8(2)  # bits of `flags`
UNANSWERED = np.uint8(4)  # another: a turn of a conversation that got no answer; earlier releases have not noted it


@dataclass(frozen=True)
class RowKeys:
    """Keys of n rows. Digests are BLAKE2b of 128 bits, as two uint64 each."""

    ids: np.ndarray  # uint64 [n, 2]: the row's identity
    content: np.ndarray  # uint64 [n, 2]: all input columns, and what is wrong with the row
    place: np.ndarray  # uint64 [n]: file and row number
    flags: np.ndarray  # uint8 [n]
    done: dict[str, np.ndarray]  # task -> uint64 [n, 2]: what the task reads of the row, and its fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tasks(self) -> list[str]:
        return list(self.done)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in (self.ids, self.content, self.place, self.flags, *self.done.values()))

    def column(self, name: str) -> np.ndarray:
        """`name`: see KeyColumns; zeros, which no row's key is, for a task that is not known here."""
        if name in COLUMNS:
            return np.asarray(getattr(self, name))
        done = self.done.get(name.removeprefix("done "))
        return np.zeros((len(self), 2), np.uint64) if done is None else done

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """See KeyColumns."""
        column = self.column(name)
        return (column[start : start + BLOCK] for start in range(0, len(column), BLOCK))

    def take(self, rows: np.ndarray) -> "RowKeys":
        """The keys at `rows`: positions, or a mask."""
        done = {name: keys[rows] for name, keys in self.done.items()}
        return RowKeys(self.ids[rows], self.content[rows], self.place[rows], self.flags[rows], done)

    def flagged(self, rows: np.ndarray, flag: np.uint8) -> "RowKeys":
        """With `flag` set where the mask `rows` is true and cleared elsewhere."""
        flags = np.where(rows, self.flags | flag, self.flags & ~flag).astype(np.uint8)
        return RowKeys(self.ids, self.content, self.place, flags, self.done)


class KeyColumns(Protocol):
    """Keys of n rows, a few rows of a column at a time: of many rows not even a column stands in memory."""

    def __len__(self) -> int: ...

    @property
    def tasks(self) -> list[str]: ...

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """A column of the rows in their order. `name`: ids, content, place, flags, or done and a task's name."""
        ...


def write_keys(
    path: Path,
    keys: KeyColumns,
    about: dict[str, Any],
    step: str,
    files: DurableFiles | None = None,
    footer: int = 0,
) -> None:
    """Writes `keys` durably, with the orders in which they are looked up, and `about` (JSON) in the head.

    `files`: with which they become durable, if not alone. `footer`: checksum of that of the rows' file, see
    `secbatch.store.parts`; it stands at the end, so that heads are alike.
    """
    n = len(keys)
    done = [f"done {name}" for name in keys.tasks]
    looked_up = {"id": "ids", **{name: name for name in done}}
    table, offset = {}, 0
    for name, (kind, shape) in {
        **{name: (np.dtype(kind), (n, *rest)) for name, (kind, rest) in COLUMNS.items()},
        **{name: (np.dtype(np.uint64), (n, 2)) for name in done},
        **{f"by {name}": (np.dtype(np.uint32), (n,)) for name in looked_up},
        **{f"filter {name}": (np.dtype(np.uint64), (words_for(n),)) for name in looked_up},
    }.items():
        table[name] = [kind.str, list(shape), offset]
        offset += -(-math.prod(shape) * kind.itemsize // 16) * 16
    head = json.dumps({"rows": n, "tasks": keys.tasks, "arrays": table, "about": about}).encode()
    head += b" " * (-(len(MAGIC) + 8 + len(head)) % 16)

    def blocks(name: str) -> Iterator[np.ndarray]:
        if name.startswith("by "):
            return orders_of(_halves(keys, looked_up[name.removeprefix("by ")]))
        if name.startswith("filter "):
            return iter([filter_of(_halves(keys, looked_up[name.removeprefix("filter ")]), n)])
        return keys.blocks(name)

    def content() -> Iterator[bytes | memoryview]:
        yield MAGIC + len(head).to_bytes(8, "little") + head
        for name in table:
            size = 0
            for block in blocks(name):
                if block.nbytes:  # there is no view of nothing
                    yield np.ascontiguousarray(block).data
                    size += block.nbytes
            if size % 16:
                yield bytes(-size % 16)
        yield footer.to_bytes(FOOTER_BYTES, "little")

    def write(temporary: Path) -> None:
        with WatchedFile(temporary, step) as file:
            for stretch in checksums.with_checksum(path.name, content()):
                file.write(stretch)

    (files.write if files else write_atomically)(path, write, step)


def _halves(keys: KeyColumns, name: str) -> Iterator[np.ndarray]:
    """The first halves of a column of digests."""
    return (np.ascontiguousarray(block[:, 0]) for block in keys.blocks(name))


def orders_of(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """uint32, several of them, n numbers together: the stable order of uint64 [n], which are given block by block.

    Digests are spread evenly, so what is brought into order at a time is small.
    """
    held = list(blocks)
    starts = np.cumsum([0, *map(len, held)]).tolist()
    ranges = -(-starts[-1] // BLOCK)
    kind = np.min_scalar_type(ranges)
    numbers = [((half >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32)).astype(kind) for half in held]
    for number in range(ranges):
        places = [np.flatnonzero(of == number) for of in numbers]
        rows = np.concatenate([start + place for start, place in zip(starts, places, strict=False)])
        halves = np.concatenate([half[place] for half, place in zip(held, places, strict=True)])
        yield rows[_order_of(halves)].astype(np.uint32)


def _order_of(halves: np.ndarray) -> np.ndarray:
    """int64 [n]: the stable order of uint64 [n], nearly all different: the processor's own sorting is not stable."""
    order = np.argsort(halves)
    ordered = halves[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    del ordered
    if len(same):
        ties = np.union1d(same, same + 1)
        rows = order[ties]
        order[ties] = rows[np.lexsort((rows, halves[rows]))]
    return order


class DamagedKeysError(OutputError):
    """The file is not what was written under its name."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"'{path}' is damaged, or holds no row keys of this release; remove it and run again.")


@lru_cache(256)
def _head(written: bytes) -> tuple[dict[str, Any], int]:
    """And the bytes that are to follow it.

    Nobody changes it: checkpoints of as many rows have the same, and thousands of them may be open at a time.
    """
    head: dict[str, Any] = json.loads(written)
    arrays = head["arrays"].values()
    return head, max(offset + math.prod(shape) * np.dtype(kind).itemsize for kind, shape, offset in arrays)


class StoredKeys:
    """The keys of one part, read from disk where and when they are looked at."""

    def __init__(self, path: Path) -> None:
        """Raises DamagedKeysError for a file that is no sidecar, or cut; FileNotFoundError when there is none."""
        self.path = path
        try:
            opened = path.open("rb")
        except PermissionError as error:
            raise explain_read(error, path) from None
        with opened as file:
            start = file.read(len(MAGIC) + 8)
            size = int.from_bytes(start[len(MAGIC) :], "little")
            there = path.stat().st_size
            self._summed = start[: len(MAGIC)] == MAGIC
            if not (self._summed or start[: len(MAGIC)] == UNSUMMED) or size > there:
                raise DamagedKeysError(path)
            written = file.read(size)
        self._base = len(start) + size
        try:
            head, length = _head(written)
            self._arrays, self.rows = head["arrays"], int(head["rows"])
            self.tasks: list[str] = head["tasks"]
            self.about: dict[str, Any] = head["about"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DamagedKeysError(path) from None
        if self._base + length > there:
            raise DamagedKeysError(path)

    def checked(self) -> "StoredKeys":
        """Itself, all of the file read once. Raises DamagedKeysError where anything in it is not as it was written."""
        if self._summed and not checksums.checksum_stands(self.path):
            raise DamagedKeysError(self.path)
        return self

    @property
    def footer(self) -> int:
        """Checksum of that of the rows' file; 0 where it was not noted."""
        if not self._summed:
            return 0
        with self.path.open("rb") as file:
            file.seek(-FOOTER_BYTES - checksums.BYTES, os.SEEK_END)
            return int.from_bytes(file.read(FOOTER_BYTES), "little")

    @cached_property
    def _memory(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def array(self, name: str) -> np.ndarray:
        kind, shape, offset = self._arrays[name]
        array = np.frombuffer(self._memory, np.dtype(kind), math.prod(shape), self._base + offset)
        return array.reshape(shape)

    def read(self, start: int, stop: int) -> RowKeys:
        """The keys from row `start` up to but without `stop`, in memory; the file is not mapped for it."""
        with self.path.open("rb", buffering=0) as file:

            def read(name: str) -> np.ndarray:
                kind, (_, *shape), offset = self._arrays[name]
                array = np.empty((stop - start, *shape), np.dtype(kind))
                file.seek(self._base + offset + start * (array.nbytes // max(1, stop - start)))
                if file.readinto(array.data.cast("B")) != array.nbytes:
                    raise DamagedKeysError(self.path)
                return array

            done = {name: read(f"done {name}") for name in self.tasks}
            return RowKeys(read("ids"), read("content"), read("place"), read("flags"), done)

    def give_back(self) -> None:
        """What was looked at no longer counts as this process's memory; the system has it at hand still."""
        if "_memory" in self.__dict__:
            self._memory.madvise(mmap.MADV_DONTNEED)

    def release(self) -> None:
        """Lets go of what is held and mapped; it comes back when it is asked for."""
        for name in ("_memory", "_sorted", "_pairs", "ids", "flags"):
            self.__dict__.pop(name, None)

    @cached_property
    def ids(self) -> np.ndarray:
        return self.array("ids")

    @cached_property
    def flags(self) -> np.ndarray:
        return self.array("flags")

    @cached_property
    def _sorted(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def column(self, name: str) -> np.ndarray:
        """`name`: see KeyColumns; zeros, which no row's key is, for a task that is not known here."""
        return self.array(name) if name in self._arrays else np.zeros((self.rows, 2), np.uint64)

    def find_ids(self, ids: np.ndarray, asked: Asked | None = None) -> np.ndarray:
        """int64 [n]: the row that has each identity, -1 where there is none. `asked`: of the first halves of `ids`."""
        return self._find("id", "ids", ids, asked)

    def find_done(self, task: str, keys: np.ndarray, asked: Asked | None = None) -> np.ndarray:
        """int64 [n]: a row for which `task` is done with that key, -1 where there is none."""
        if task not in self.tasks:
            return np.full(len(keys), -1, np.int64)
        return self._find(f"done {task}", f"done {task}", keys, asked)

    def _find(self, name: str, keys_name: str, wanted: np.ndarray, asked: Asked | None) -> np.ndarray:
        found = np.full(len(wanted), -1, np.int64)
        if not self.rows or not len(wanted):
            return found
        if f"filter {name}" in self._arrays:  # keys of earlier releases have none
            asked = asked or Asked(wanted[:, 0])
            likely = np.flatnonzero(asked.may_be_in(self.array(f"filter {name}")))
            found[likely] = self._searched(name, keys_name, wanted[likely])
            return found
        return self._searched(name, keys_name, wanted)

    def _searched(self, name: str, keys_name: str, wanted: np.ndarray) -> np.ndarray:
        try:
            return self._search(name, keys_name, wanted)
        except IndexError:  # the order names a row that is not there
            raise DamagedKeysError(self.path) from None

    def _search(self, name: str, keys_name: str, wanted: np.ndarray) -> np.ndarray:
        order, keys = self.array(f"by {name}"), self.array(keys_name)
        if name in self._sorted or len(wanted) > self.rows // FEW:
            if name not in self._sorted:
                self._sorted[name] = keys[:, 0][order]
            places = np.searchsorted(self._sorted[name], wanted[:, 0])
        else:
            places = _bisected(keys, order, wanted[:, 0])
        found = np.full(len(wanted), -1, np.int64)
        open_ = np.flatnonzero(places < self.rows)
        rows = order[places[open_]].astype(np.int64)
        first = keys[rows, 0] == wanted[open_, 0]
        hit = first & (keys[rows, 1] == wanted[open_, 1])
        found[open_[hit]] = rows[hit]
        rest = open_[first & ~hit]  # another digest has the same first half
        if len(rest):
            both, sorted_keys = self._by_both_halves(name, keys)
            places = find_pairs(sorted_keys[0], sorted_keys[1], wanted[rest])
            found[rest] = np.where(places >= 0, both[places], -1)
        return found

    def _by_both_halves(self, name: str, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows (int64 [n]) in the order of their keys' both halves, and these (uint64 [2, n]) in that order."""
        if name not in self._pairs:
            order = np.lexsort((keys[:, 1], keys[:, 0]))
            self._pairs[name] = (order, np.ascontiguousarray(keys[order].T))
        return self._pairs[name]


def _bisected(keys: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [n]: where each of `wanted` (uint64 [n]) belongs among the first halves of `keys` in their `order`."""
    low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(order), np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        below = keys[order[np.minimum(middle, len(order) - 1)], 0] < wanted
        open_ = low < high
        low = np.where(open_ & below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low
