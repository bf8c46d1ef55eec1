"""What is done already: finds rows among the parts of the base version and in checkpoints that were left behind."""

import bisect
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from secbatch.store.filters import Asked
from secbatch.store.joined_keys import Joined, joined
from secbatch.store.parts import RowGroups, opened
from secbatch.store.row_keys import REJECTED, REMOVED, UNANSWERED, RowKeys, StoredKeys

KNOWN_PARTS = 1024  # of whose keys the heads are held
OPEN_PARTS = 8  # whose keys are mapped and partly in memory
JOINED = 1024  # rows whose keys are joined in the time that it takes to ask a part for a shard's rows


@dataclass(frozen=True)
class Stored:
    """A file of rows and its keys."""

    name: str
    file: Path
    keys: Path
    tasks: dict[str, list[str]]  # task -> fingerprints that its rows have
    rows: int
    shown: bool  # part of what readers see in the base version
    superseded: bool = False  # its rows were rejected, or done, before a later row with their id replaced them


@dataclass
class Match:
    """Where the n rows of a shard are done. Part and row are -1 where a task is to be computed."""

    kept: np.ndarray  # bool [n]: the base version holds the row as it would come out; nothing to do or to write
    known: np.ndarray  # bool [n]: the base version holds a row with this identity and content
    part: dict[str, np.ndarray]  # task -> int64 [n]: number of the part in the pool
    row: dict[str, np.ndarray]  # task -> int64 [n]: row in it
    # bool [n]: rows that a task, or a partition's name, had rejected and that come out so again, wherever they stand
    # now: part and row say for every task where they stood. And of the kept rows those with a broken value.
    rejected: np.ndarray = field(default_factory=lambda: np.empty(0, bool))

    def todo(self, task: str) -> np.ndarray:
        """bool [n]."""
        return ~self.kept & (self.part[task] < 0)


class Pool:
    """Parts in an order in which rows that follow each other in the input are mostly found side by side."""

    def __init__(
        self,
        parts: list[Stored],
        open_keys: Callable[[Stored], StoredKeys],
        readable: Callable[[Stored, StoredKeys], bool],
        schema: str,
        columns: Mapping[str, list[str]],
        scratch: Path,
        retry: bool = False,
    ) -> None:
        """`schema`: name of the columns that this run gives; rows of parts with others cannot stay where they are.
        `columns`: of each task.

        `readable`: is asked of a file that is not shown once rows are to be taken over from it. `scratch`: made when
        needed, removed by the caller. `retry`: rejected rows do not come out so again; what other tasks than the one
        that rejected them have done counts.

        Those that are shown come first.
        """
        self.parts, self._schema, self._columns = parts, schema, columns
        self._open_keys, self._readable, self._retry = open_keys, readable, retry
        self._sound: dict[int, bool] = {}  # files that are not shown: whether their rows can be read
        self._open: OrderedDict[int, StoredKeys] = OrderedDict()
        self._scratch = scratch
        self._shown = [Joined(number, np.zeros(1, np.int64)) for number, part in enumerate(parts) if part.shown]
        self._patience: float = _patience([part for part in parts if part.shown])
        self._hidden: list[Joined] = []  # of the others, once their keys are joined
        hidden = [part for part in parts if not part.shown]
        self._patience_with_hidden: float = _patience(hidden) if len(hidden) > OPEN_PARTS else math.inf
        self._has_unanswered: dict[int, bool] = {}
        self._groups = RowGroups(scratch / "groups")
        self._last = 0  # where the last rows were found

    def keys(self, number: int) -> StoredKeys:
        """Those of a part; what was looked at of another part's no longer counts as memory."""
        last = next(reversed(self._open), number)
        if last != number:
            self._open[last].give_back()
        if number not in self._open:
            self._open[number] = self._open_keys(self.parts[number])
            if len(self._open) > KNOWN_PARTS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        if len(self._open) > OPEN_PARTS:
            next(itertools.islice(reversed(self._open.values()), OPEN_PARTS, None)).release()
        return self._open[number]

    def close(self) -> None:
        """Lets go of the files."""
        self._open.clear()
        self._groups = RowGroups(self._scratch / "groups")

    def match(
        self, keys: RowKeys, fingerprints: dict[str, str], unanswered: Mapping[str, np.ndarray] | None = None
    ) -> Match:
        """`keys.done` has the tasks of this run; a key of zeros says that nothing is to be done or looked up.

        `unanswered`: task -> bool [n], turns that got no answer; what was answered to them before is not looked for:
        it is no history of the turns after them.
        """
        n = len(keys)
        match = Match(
            np.zeros(n, bool),
            np.zeros(n, bool),
            {name: np.full(n, -1, np.int64) for name in keys.done},
            {name: np.full(n, -1, np.int64) for name in keys.done},
            np.zeros(n, bool),
        )
        self._by_identity(keys, match)
        if self._patience_with_hidden < 0:
            others = [number for number, part in enumerate(self.parts) if not part.shown and _has(part, fingerprints)]
            self._hidden, self._patience_with_hidden = joined(others, self.keys, self._scratch), math.inf
        for name, fingerprint in fingerprints.items():
            done = keys.done[name]
            if unanswered and name in unanswered:
                done = np.where(unanswered[name][:, None], np.uint64(0), done)
            self._by_value(name, fingerprint, done, match)
        if not self._retry:
            self._among_replaced(keys, match)
        return match

    def unanswered(self, keys: RowKeys, tasks: list[str]) -> dict[str, np.ndarray]:
        """task -> bool [n]: turns that got no answer where they stand, as they are, in the base version or among
        replaced rows: most of them come out so again. `tasks`: those with conversations."""
        unanswered = {name: np.zeros(len(keys), bool) for name in tasks}
        for number, part in sorted(enumerate(self.parts), key=lambda one: one[1].shown):  # what is shown is the newer
            if not (part.shown or part.superseded):
                continue
            if number not in self._has_unanswered:
                self._has_unanswered[number] = bool((self.keys(number).flags & UNANSWERED).any())
            if not (self._has_unanswered[number] or any(map(np.any, unanswered.values()))):
                continue
            stored = self.keys(number)
            rows = stored.find_ids(keys.ids)
            here = np.flatnonzero(rows >= 0)
            here = here[(stored.array("content")[rows[here]] == keys.content[here]).all(axis=1)]
            flagged = here[(stored.flags[rows[here]] & UNANSWERED) != 0]
            alone = len(tasks) == 1 and set(stored.tasks) <= set(keys.done)  # the only one that it can have been
            for name, found in unanswered.items():
                found[here] = False
                if len(flagged) and name in stored.tasks:
                    found[flagged] = alone or ~self._has_result(np.full(len(flagged), number), rows[flagged], name)
        return unanswered

    def _nearest_first(self) -> list[int]:
        order = list(range(len(self.parts)))
        return order[self._last :] + order[: self._last]

    def _shown_nearest_first(self) -> list[Joined]:
        place = bisect.bisect_right(self._shown, self._last, key=lambda parts: parts.first) - 1
        return self._shown[place:] + self._shown[:place]

    def _by_identity(self, keys: RowKeys, match: Match) -> None:
        if self._patience < 0:
            self._shown, self._patience = joined(range(len(self._shown)), self.keys, self._scratch), math.inf
        left, wanted = np.arange(len(keys)), keys.ids
        asked = Asked(wanted[:, 0])
        begin, ahead = self._last, -1
        for parts in self._shown_nearest_first():
            if not len(left):
                break
            self._patience -= 1
            stored = parts.keys or self.keys(parts.first)
            rows = stored.find_ids(wanted, asked)
            found = rows >= 0
            if found.any():
                part, row = parts.places(rows[found])
                ahead = max(ahead, int(((part - begin) % len(self.parts)).max()))
                self._compare(stored, keys, match, left[found], rows[found], part, row)
                left, wanted, asked = left[~found], wanted[~found], asked.take(~found)
            if parts.keys:
                stored.release()
        if ahead >= 0:  # the last one in which something was found, had they been asked one by one
            self._last = (begin + ahead) % len(self.parts)

    def _compare(
        self,
        stored: StoredKeys,
        keys: RowKeys,
        match: Match,
        here: np.ndarray,
        rows: np.ndarray,
        part: np.ndarray,
        row: np.ndarray,
    ) -> None:
        """`here`: positions in the shard; `rows`: the same identities' in `stored`, which stand at (`part`, `row`)."""
        flags = stored.flags[rows]
        same = (stored.array("content")[rows] == keys.content[here]).all(axis=1)
        match.known[here] = same
        whole = same & ((flags & REMOVED) == 0)
        whole &= stored.about.get("schema") == self._schema
        if self._retry:
            whole &= flags == 0
        alike = {}
        for name, wanted in keys.done.items():
            alike[name] = (stored.column(f"done {name}")[rows] == wanted[here]).all(axis=1)
            whole &= alike[name] & (name in stored.tasks)
        rejected = (flags & REJECTED) != 0
        for name, done in alike.items():
            usable = done & keys.done[name][here].any(axis=1) & ~(rejected & whole)
            doubtful = np.flatnonzero(usable & rejected)
            if len(doubtful):
                usable[doubtful] = self._has_result(part[doubtful], row[doubtful], name)
            match.part[name][here[usable]] = part[usable]
            match.row[name][here[usable]] = row[usable]
        match.kept[here] = whole & (stored.array("place")[rows] == keys.place[here])
        asked = np.logical_or.reduce([wanted[here].any(axis=1) for wanted in keys.done.values()])
        again = whole & rejected
        for name in keys.done:
            match.part[name][here[again & asked]] = part[again & asked]
            match.row[name][here[again & asked]] = row[again & asked]
        match.rejected[here] = again & (asked | match.kept[here])

    def _has_result(self, parts: np.ndarray, rows: np.ndarray, task: str) -> np.ndarray:
        """bool [n]: rejected rows that `task` was through with; a row that it cannot do has none of its values."""
        columns = self.columns(parts, rows, self._columns[task]).columns
        return ~np.logical_and.reduce([np.asarray(column.is_null()) for column in columns])

    def _by_value(self, name: str, fingerprint: str, done: np.ndarray, match: Match) -> None:
        left = np.flatnonzero(match.todo(name) & done.any(axis=1))
        wanted = done[left]
        asked = Asked(wanted[:, 0])
        may = self._may_have(name, wanted, asked)
        for number in self._nearest_first():
            if not len(left):
                return
            if not may[number] or fingerprint not in self.parts[number].tasks.get(name, ()):
                continue
            self._patience_with_hidden -= not self.parts[number].shown
            stored = self.keys(number)
            rows = stored.find_done(name, wanted, asked)
            found = rows >= 0
            rejected = np.flatnonzero(found)
            rejected = rejected[(stored.flags[rows[rejected]] & REJECTED) != 0]
            if found.any() and self._is_sound(number):
                if len(rejected):  # for another task's sake, or its partition's
                    found[rejected] = self._has_result(np.full(len(rejected), number), rows[rejected], name)
                match.part[name][left[found]] = number
                match.row[name][left[found]] = rows[found]
                self._last = number
                left, wanted, asked = left[~found], wanted[~found], asked.take(~found)

    def _may_have(self, name: str, wanted: np.ndarray, asked: Asked) -> np.ndarray:
        """bool [parts]: False for those whose joined keys say that the task is done for nothing that is wanted."""
        may = np.ones(len(self.parts), bool)
        for parts in (*self._shown, *self._hidden):
            if parts.keys:
                found = parts.keys.find_done(name, wanted, asked) >= 0
                may[parts.first : parts.first + len(parts.starts)] = found.any()
                parts.keys.release()
        return may

    def _among_replaced(self, keys: RowKeys, match: Match) -> None:
        """Rejected rows that stood in the input before as they are, and that a later row with their id replaced."""
        asked = np.logical_or.reduce([done.any(axis=1) for done in keys.done.values()])
        left = np.flatnonzero(np.logical_or.reduce([match.todo(name) for name in keys.done]) & asked)
        for number, part in enumerate(self.parts):
            if not len(left):
                return
            if not (part.superseded and set(part.tasks) <= set(keys.done)):  # the sentence may be of one that is gone
                continue
            stored = self.keys(number)
            rows = stored.find_ids(keys.ids[left])
            found = rows >= 0
            alike = [("content", keys.content), *((f"done {name}", done) for name, done in keys.done.items())]
            for name, wanted in alike:
                found[found] = (stored.column(name)[rows[found]] == wanted[left[found]]).all(axis=1)
            found[found] = (stored.flags[rows[found]] & ~UNANSWERED) == REJECTED
            if found.any() and self._is_sound(number) and _has_errors(part.file):
                for name in keys.done:
                    match.part[name][left[found]] = number
                    match.row[name][left[found]] = rows[found]
                match.rejected[left[found]] = True
                left = left[~found]

    def _is_sound(self, number: int) -> bool:
        if self.parts[number].shown:  # a damaged one stops the run when it is read: readers see it
            return True
        if number not in self._sound:
            self._sound[number] = self._readable(self.parts[number], self.keys(number))
        return self._sound[number]

    def columns(self, parts: np.ndarray, rows: np.ndarray, names: list[str]) -> pa.Table:
        """Columns `names` of the rows at (part, row), int64 [n] each and none -1, in that order."""
        order = np.argsort(parts, kind="stable")
        numbers, starts = np.unique(parts[order], return_index=True)
        tables = [
            self._groups.take(self.parts[int(number)].file, rows[here], names)
            for number, here in zip(numbers, np.split(order, starts[1:]), strict=True)
        ]
        self._groups.release()
        return pa.concat_tables(tables).take(pa.array(np.argsort(order)))


def _patience(parts: list[Stored]) -> int:
    """So often parts are asked before their keys are joined, which takes no longer than this did."""
    return len(parts) + sum(part.rows for part in parts) // JOINED


def _has(part: Stored, fingerprints: Mapping[str, str]) -> bool:
    """Whether a task is done with one of these in it."""
    return any(fingerprint in part.tasks.get(name, ()) for name, fingerprint in fingerprints.items())


def _has_errors(file: Path) -> bool:
    """Whether what is wrong with rows that were replaced is kept with them; earlier releases did not."""
    with opened(file) as rows:
        return "secbatch_error" in rows.schema_arrow.names
