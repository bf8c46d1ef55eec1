"""What of a shard is done already, and what is left for the models."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from secbatch.identity import Identified, content_key
from secbatch.row_hash import digests, hash_content, hash_places, mixed
from secbatch.store.checkpoints import whole
from secbatch.store.filesystem import explain_read, refuses_to_read, remove_file
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Part
from secbatch.store.merge import SUPERSEDED
from secbatch.store.partitions import with_partitions
from secbatch.store.parts import DamagedPartError, footer_sum, is_part_of, read_part, readable
from secbatch.store.pool import Match, Pool, Stored
from secbatch.store.row_keys import REJECTED, REMOVED, UNANSWERED, DamagedKeysError, RowKeys, StoredKeys, write_keys
from secbatch.task_keys import after_unanswered, conversation_column, conversations, in_conversations, task_keys
from secbatch.worker import Reused, Work, Worker


@dataclass(frozen=True)
class KeptRows:
    """Rows of a shard that stay where they are."""

    ids: np.ndarray  # uint64 [k, 2]
    rejected: int  # so many of them


@dataclass(frozen=True)
class Looked:
    """A shard of n rows, and what the store has of it."""

    identified: Identified
    keys: RowKeys
    written: RowKeys  # as they are written: with what is known of turns that got no answer
    match: Match

    @property
    def kept(self) -> KeptRows:
        kept = self.match.kept
        return KeptRows(self.keys.ids[kept], int(self.match.rejected[kept].sum()))


class Reuse:
    """Looks up shards in the base version and in what earlier runs left unpublished."""

    def __init__(
        self,
        layout: Layout,
        ledger: Ledger | None,
        worker: Worker,
        source_schema: pa.Schema,
        *,
        base: int,
        run: str,
        about: Mapping[str, object],
        fresh: bool = False,
        redone: bool = False,
        retry: bool = False,
        scratch: Path | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`base`: number of the version to start from, 0 for none. `fresh`: nothing of earlier runs counts as done; but
        where the same job has published all and was stopped before its end (`redone`), what it has published.

        `notice`: is told of what is damaged.

        `about`: what is noted with row keys that have to be worked out from a part of an older release; these go to
        `scratch` where one is given, and stay with the part otherwise.
        """
        self._layout, self._worker, self._source_schema = layout, worker, source_schema
        self._ledger, self._run = ledger, run
        self._about, self._base, self._scratch, self._notice = dict(about), base, scratch, notice
        self._checked: set[Path] = set()  # keys whose file was read to its end
        self._turns_are_asked_again = False  # for lack of row keys, as was said
        self.schema_name = schema_name(worker.schema)
        self.base = ledger.version_parts(base) if ledger and not fresh else []
        self.base_superseded = ledger.version_parts(base, superseded=True) if ledger and not fresh else []
        stored = [self._stored(part) for part in self.base]
        self.first = not stored  # there are no parts that may be swept away when this run publishes before its end
        if ledger and not fresh:
            # Other kept versions as well: after a rollback, or a change that was taken back, their results are at hand.
            known = {part.name for part in self.base}
            # Not this run's own: a resumed run must find what the first try found.
            more = [part for part in ledger.parts() if part.name not in known and part.run != run]
            others = [replace(self._stored(part), shown=False) for part in more]
            stored += [part for part in others if part.file.exists()]  # a damaged one may have been removed
            self.first = not stored
            stored += self._left_behind(ledger, lambda one: one != run)
        elif ledger and redone:
            stored = [replace(self._stored(part), shown=False) for part in ledger.version_parts(base)]
        # What readers have seen of this run already, of a first one that was stopped: rows that its input no longer has
        # are among them.
        self.shows_own = ledger is not None and not fresh and not self.base and ledger.version_of(run) > 0
        columns = {name: [field.name for field in task.fields] for name, task in worker.tasks.items()}
        scratch = (self._scratch or layout.scratch) / "joined"
        self._pool = Pool(stored, self._open, self._readable, self.schema_name, columns, scratch, retry)

    def _stored(self, part: Part) -> Stored:
        file = self._layout.parts / part.files[0]
        keys = self._layout.keys / f"{part.name}.keys"
        return Stored(part.name, file, keys, part.tasks, part.rows, True, part.superseded)

    def take_over_own(self, ledger: Ledger, run: str) -> None:
        """From now on what this run's earlier tries have done counts, too, wherever its rows stand.

        For a resumed run whose input has changed: its shards are others, so their checkpoints do not serve as such.
        """
        self._pool.parts += self._left_behind(ledger, lambda one: one == run)

    def _left_behind(self, ledger: Ledger, whose: Callable[[str], bool]) -> list[Stored]:
        """Checkpoints of runs that did not come to their end."""
        found = []
        for checkpoint in ledger.checkpoints():
            file = self._layout.checkpoints / f"{checkpoint.part}.parquet"
            keys = file.with_suffix(".keys")
            if whose(checkpoint.run) and whole(self._layout, checkpoint):
                tasks = StoredKeys(keys).about["tasks"]
                found.append(Stored(checkpoint.part, file, keys, tasks, checkpoint.rows, False))
        return found

    def _readable(self, stored: Stored, keys: StoredKeys) -> bool:
        """Whether the rows of a file that readers do not see can be taken over."""
        if is_part_of(stored.file, keys) and readable(stored.file):
            return True
        self._notice(f"'{stored.file}' is damaged, or gone: what was to be taken over from it is done again.")
        return False

    def close(self) -> None:
        self._pool.close()

    # -- shard by shard

    def look(self, identified: Identified) -> Looked:
        shard = identified.shard
        rejected = list(shard.errors)
        worker = self._worker
        done = task_keys(worker.tasks, worker.fingerprints, shard.table, identified.keys, rejected)
        flags = np.zeros(shard.num_rows, np.uint8)
        keys = RowKeys(identified.keys, identified.content, identified.place, flags, done)
        talks = {name: talk for name, task in worker.tasks.items() if (talk := in_conversations(task))}
        unanswered = self._pool.unanswered(keys, list(talks)) if talks else {}
        wanted = after_unanswered(worker.tasks, done, shard.table, unanswered)
        match = self._pool.match(replace(keys, done=wanted), worker.fingerprints, unanswered)
        # As often as there are tasks: a rejected turn that one has asked again is so for the others, too.
        for name, talk in [*talks.items()] * len(talks):
            usable = np.asarray(done[name].any(axis=1))
            if (match.todo(name) & usable).any():
                usable &= talk.asks(shard.table)
            numbers = conversations(shard.table.column(talk.conversation_column))
            self._with_history(name, numbers, usable, match)
        # The others are asked again, and so are those after them.
        unanswered = {name: rows & match.rejected for name, rows in unanswered.items()}
        written = replace(keys, done=after_unanswered(worker.tasks, done, shard.table, unanswered))
        any_of_them = np.logical_or.reduce([flags != 0, *unanswered.values()])
        return Looked(identified, keys, written.flagged(any_of_them, UNANSWERED), match)

    @staticmethod
    def _with_history(name: str, numbers: np.ndarray, usable: np.ndarray, match: Match) -> None:
        """A turn that is to be done asks for those after it to be done, too, and for those before it to be at hand.

        `numbers`: int64 [n], of the rows' conversations.
        """
        todo = match.todo(name) & usable
        if not todo.any():
            return
        rows = np.arange(len(numbers))
        first = np.full(int(numbers[-1]) + 1, len(numbers))  # row of each conversation from which on it is done
        np.minimum.at(first, numbers[todo], rows[todo])
        later = rows >= first[numbers]
        earlier = (first[numbers] < len(numbers)) & ~later
        # A turn that was rejected for something else may have an answer, which is history.
        match.kept[later | (earlier & usable)] = False
        match.part[name][later] = -1
        for part in match.part.values():  # what is rejected is so as a whole
            part[later & match.rejected] = -1
        match.rejected[later] = False

    def key(self, looked: Looked) -> str:
        """Of all that decides the shard's checkpoint, and so of which rows stay where they are: fewer do where row keys
        are lost that an earlier try had."""
        kept = np.packbits(looked.match.kept).tobytes().hex()
        more = json.dumps([self._base, sorted(self._worker.fingerprints.items()), self.schema_name, kept])
        return content_key(looked.identified, looked.identified.shard.table.schema, more)

    def work(self, looked: Looked) -> tuple[Work, RowKeys, RowKeys] | None:
        """The rows that are to be written anew, with the columns that are done, and their keys, as they are asked for
        and as they are written; None when there are none."""
        rows = np.flatnonzero(~looked.match.kept)
        if not len(rows):
            return None
        reused, runs = {}, None
        for name, task in self._worker.tasks.items():
            parts, places = looked.match.part[name][rows], looked.match.row[name][rows]
            done = np.flatnonzero(parts >= 0)
            if len(done):
                columns = [field.name for field in task.fields]
                table = self._pool.columns(parts[done], places[done], [*columns, "secbatch_run"])
                reused[name] = Reused(done, table)
                if runs is None:
                    runs = _spread(table.column("secbatch_run"), done, len(rows))
        errors = self._errors_of_before(looked.match, rows)
        if len(rows) == len(looked.keys):
            return Work(looked.identified, reused, runs, errors), looked.keys, looked.written
        work = Work(looked.identified.take(rows), reused, runs, errors)
        return work, looked.keys.take(rows), looked.written.take(rows)

    def _errors_of_before(self, match: Match, rows: np.ndarray) -> dict[int, str]:
        """Of those out of `rows` that come out rejected as they were: place among these, and the sentence."""
        again = np.flatnonzero(match.rejected[rows])
        if not len(again):
            return {}
        name = next(iter(match.part))
        parts, places = match.part[name][rows[again]], match.row[name][rows[again]]
        found = self._pool.columns(parts, places, ["secbatch_error"])
        return dict(zip(again.tolist(), found.column(0).to_pylist(), strict=True))

    # -- the base version as a whole

    def base_columns(self) -> dict[str, str] | None:
        """Input columns of the base version and their types; None where that is not known."""
        base = self.base or self.own_shown()
        if not base:
            return None
        return self._open(self._stored(base[0])).about.get("columns")

    def own_shown(self) -> list[Part]:
        """Parts of the newest version, where it is of a first run that goes on; others after each publication."""
        if not self.shows_own or not self._ledger:
            return []
        return self._ledger.version_parts(self._ledger.version_of(self._run))

    def base_tasks(self) -> set[str]:
        """Tasks whose columns the base version has."""
        return {name for part in self.base for name in part.tasks}

    def outdated_rows(self) -> int:
        """Rows of the base version that have a task's columns, but by other parameters or another model."""
        fingerprints = self._worker.fingerprints
        return sum(
            part.rows
            for part in self.base
            if any(name in part.tasks and part.tasks[name] != [own] for name, own in fingerprints.items())
        )

    def redone(self, looked: Looked) -> int:
        """Rows of a shard that stand unchanged in the base version and would be done again for a task it has."""
        had = self.base_tasks()
        todo = [looked.match.todo(name) for name in self._worker.tasks if name in had]
        usable = [looked.keys.done[name].any(axis=1) for name in self._worker.tasks if name in had]
        if not todo:
            return 0
        again = np.logical_or.reduce([want & can for want, can in zip(todo, usable, strict=True)])
        return int((again & looked.match.known).sum())

    # -- keys of parts

    def open_keys(self, part: Part) -> StoredKeys:
        return self._open(self._stored(part))

    def _open(self, stored: Stored) -> StoredKeys:
        try:
            there = StoredKeys(stored.keys)
            if stored.keys not in self._checked:
                self._checked.add(there.checked().path)
                if stored.shown and not is_part_of(stored.file, there):
                    raise DamagedPartError(stored.file, "it is not the file that was written under this name")
            return there
        except (FileNotFoundError, DamagedKeysError) as error:
            superseded = stored.name.startswith(f"{SUPERSEDED}/")
            if isinstance(error, DamagedKeysError):
                then = "they are worked out again"
                if superseded:
                    then = "the results of replaced rows that they name are no longer of use"
                self._notice(f"The row keys '{stored.keys}' are damaged; {then}.")
            keys, schema = self._worked_out(stored)
            facts = {"tasks": stored.tasks, "rows": len(keys), "rejected": int((keys.flags & 1).sum())}
            about = {**self._about, "schema": schema, "part": {**facts, "run": "", "superseded": superseded}}
            path, scratch = stored.keys, self._scratch
            if superseded and not scratch:  # they say nothing, and must not stand where those of the next results go
                scratch = self._layout.scratch
                remove_file(stored.keys)
            if scratch:
                path = scratch / "keys" / f"{stored.name}.keys"
            write_keys(path, keys, about, "part keys", footer=footer_sum(stored.file))
            return StoredKeys(path)
        except OSError as error:
            if refuses_to_read(error):
                raise explain_read(error, stored.keys) from None
            raise

    def _worked_out(self, stored: Stored) -> tuple[RowKeys, str]:
        """Keys of a part of an older release, or whose own are damaged, from its rows.

        No keys where these do not say whose they are: results of superseded rows, which nobody misses. And of a task
        with conversations no turn counts as done.
        """
        folder = stored.name.rpartition("/")[0]
        table = read_part(stored.file)
        written = table.schema.remove_metadata()
        if "secbatch_id" not in written.names:
            nobody = np.empty((0, 2), np.uint64)
            done = dict.fromkeys(stored.tasks, nobody)
            return RowKeys(nobody, nobody, np.empty(0, np.uint64), np.empty(0, np.uint8), done), schema_name(written)
        table = with_partitions(table.replace_schema_metadata(None), folder, self._worker.schema)
        stored_columns = set(table.column_names)
        known = [name for name in self._source_schema.names if name in stored_columns]
        status = np.array(table.column("secbatch_status").to_pylist())
        tasks = {
            name: task
            for name, task in self._worker.tasks.items()
            if stored.tasks.get(name) == [self._worker.fingerprints[name]] and set(task.reads) <= set(known)
        }
        flags = ((status == "rejected") * REJECTED | (status == "removed") * REMOVED).astype(np.uint8)
        source = table.column("secbatch_source").combine_chunks().dictionary_encode()
        ids = _id_digests(table.column("secbatch_id").to_pylist(), by_content=not self._about["id"])
        done = task_keys(tasks, self._worker.fingerprints, table, ids, [])
        for name, task in tasks.items():
            # Others may have stood there when the task was new, and never have had it.
            done[name][_without([table.column(field.name) for field in task.fields])] = 0
            column = conversation_column(task)
            if column:  # which turns one was answered after, nobody knows: they may be edited, elsewhere or gone by now
                turns = _of_conversations(table.column(column))
                if done[name][turns].any():
                    self._say_that_turns_are_asked_again(stored.keys)
                done[name][turns] = 0
        keys = RowKeys(
            ids,
            hash_content(table.select(known)),
            hash_places(source, table.column("secbatch_row").combine_chunks()),
            flags,
            done,
        )
        partitions = {level.partition("=")[0] for level in folder.split("/")}
        rest = pa.schema([field for field in self._worker.schema if field.name not in partitions])
        return keys, schema_name(self._worker.schema if rest.equals(written) else written)

    def _say_that_turns_are_asked_again(self, keys: Path) -> None:
        if not self._turns_are_asked_again:  # once: all keys may be gone
            self._turns_are_asked_again = True
            self._notice(
                f"Row keys are gone or damaged ('{keys}'), and nothing else tells which turns an answer in a "
                "conversation was given after: such answers are given again."
            )


def _without(columns: list[pa.ChunkedArray]) -> np.ndarray:
    """bool [n]: rows that have nothing in any of these."""
    return np.logical_and.reduce([np.asarray(column.is_null()) for column in columns])


def _of_conversations(column: pa.ChunkedArray) -> np.ndarray:
    """bool [n]: rows with an id of a conversation; the others are one of their own."""
    return np.array([value not in (None, "") for value in column.to_pylist()], bool)


def _id_digests(ids: list[str], by_content: bool) -> np.ndarray:
    if not by_content:
        return digests([name.encode() for name in ids])
    parted = [name.rpartition("-") for name in ids]
    content = np.frombuffer(b"".join(bytes.fromhex(content) for content, _, _ in parted), dtype="<u8").reshape(-1, 2)
    return mixed(content, np.array([int(number) for _, _, number in parted], dtype=np.uint64))


def _spread(column: pa.ChunkedArray, rows: np.ndarray, count: int) -> pa.Array:
    place = np.full(count, -1, np.int64)
    place[rows] = np.arange(len(rows))
    return column.combine_chunks().take(pa.array(place, mask=place < 0))


def schema_name(schema: pa.Schema) -> str:
    """Tells one list of columns and types from another."""
    digest = digests([str(schema.remove_metadata()).encode()])
    return digest.tobytes().hex()
