"""The ledger: which shards are done, and which parts make up each version (SQLite)."""

import json
import sqlite3
import threading
from collections.abc import Collection
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

from secbatch.errors import OutputError
from secbatch.store import faults, seal
from secbatch.store.filesystem import make_folder
from secbatch.store.ledger_errors import DamagedLedgerError, explain
from secbatch.store.ledger_records import Checkpoint, Part, Publication, Run, Version
from secbatch.store.ledger_schema import SCHEMA_VERSION, create, migrate

ALL_PUBLISHED = "all published"  # among the settings: the newest run that has made its last publication
TO_BE_SHOWN = "to be shown"  # among the settings: the version that the link is about to be turned to, while it is


def same_job(one: str, other: str) -> bool:
    """Whether two descriptions are of one job, whatever the order of their keys."""
    return bool(json.loads(one) == json.loads(other))


class Ledger:
    """Opened by one run at a time (the lock sees to that), used from several of its threads."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._path, self._mutex, self._writing = path, threading.Lock(), True
        with suppress(OSError):  # SQLite says it better
            if not path.exists():
                path.touch()  # SQLite itself gives a new file to its owner alone to write, whatever umask allows
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._file = _identity(path)
            found = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            if self._connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
                seal.check(self._connection)
            self._open_schema()
        except sqlite3.OperationalError as error:
            raise explain(error, path, "opened") from None
        except sqlite3.Error as error:
            raise DamagedLedgerError(path, str(error)) from None

    @classmethod
    def read_only(cls, path: Path) -> "Ledger":
        """For looking only: needs no lock and changes nothing."""
        ledger = cls.__new__(cls)
        ledger._path, ledger._mutex, ledger._writing = path, threading.Lock(), False
        try:
            ledger._connection = _looking(path)
            ledger._read_as_this_release()
        except sqlite3.OperationalError as error:
            raise explain(error, path, "read") from None
        except sqlite3.Error as error:
            raise DamagedLedgerError(path, str(error)) from None
        return ledger

    def _open_schema(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            create(self._connection)
        elif version < SCHEMA_VERSION:
            migrate(self._connection, version, self._path.parent / "parts")
        elif version > SCHEMA_VERSION:
            raise OutputError(
                f"The ledger '{self._path}' was written by a newer secbatch (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); upgrade secbatch or choose another output."
            )

    def _read_as_this_release(self) -> None:
        """An older ledger is looked at as a migrated copy in memory."""
        if self._connection.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
            copy = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            self._connection.backup(copy)
            self._connection.close()
            self._connection = copy
        self._open_schema()

    def close(self) -> None:
        if self._writing:
            with suppress(sqlite3.Error, OutputError):  # a full disk; it may be open once more without its seal
                if self.setting(seal.SEAL) is None:
                    seal.put_on(self._connection)
                    faults.record("commit", self._path)
        self._connection.close()

    def in_place(self) -> bool:
        """Whether the file still is where it was opened: SQLite goes on in one that was moved away, or removed."""
        return _identity(self._path) == self._file

    def check_in_place(self) -> None:
        """Raises OutputError where the output was moved or removed: what is there now may be that of another run."""
        if not self.in_place():
            raise OutputError(
                f"Output '{self._path.parent.parent}' was moved or removed while this run was at work; what is there "
                "now is left as it is. Run again, where the output is to be: finished work that was moved along is "
                "reused."
            )

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        self._write_all([(statement, values)])

    def _write_all(self, statements: list[tuple[str, tuple[object, ...]]]) -> None:
        self.check_in_place()
        with self._mutex:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for statement, values in [seal.BREAK, *statements]:
                    self._connection.execute(statement, values)
                faults.reach("ledger: before a commit")
                self._connection.execute("COMMIT")
                faults.record("commit", self._path)
                faults.reach("ledger: after a commit")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise explain(error, self._path, "written") from None

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple]:
        with self._mutex:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.ProgrammingError:  # ours, not the file's
                raise
            except sqlite3.OperationalError as error:
                raise explain(error, self._path, "read") from None
            except sqlite3.Error as error:  # a page that was not looked at when it was opened
                raise DamagedLedgerError(self._path, str(error)) from None

    # -- identity of the dataset

    def setting(self, key: str) -> str | None:
        rows = self._read("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def fix_setting(self, key: str, value: str) -> None:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # -- runs

    def unfinished_run(self, job: str) -> str | None:
        """The newest run, when it is of the same job and did not finish: a rerun goes on as that run."""
        rows = self._read("SELECT run, job, state FROM runs ORDER BY rowid DESC LIMIT 1")
        return rows[0][0] if rows and rows[0][2] != "finished" and same_job(rows[0][1], job) else None

    def unfinished_runs(self) -> list[tuple[Run, int]]:
        """Each run that did not come to its end, oldest first, with the number of runs after it that did."""
        rows = self._read(
            "SELECT run, job, state, started, (SELECT COUNT(*) FROM runs AS later"
            " WHERE later.rowid > runs.rowid AND later.state = 'finished')"
            " FROM runs WHERE state != 'finished' ORDER BY rowid"
        )
        return [(Run(*facts), later) for *facts, later in rows]

    def newest_run(self) -> Run | None:
        rows = self._read("SELECT run, job, state, started FROM runs ORDER BY rowid DESC LIMIT 1")
        return Run(*rows[0]) if rows else None

    def knows_run(self, run: str) -> bool:
        return bool(self._read("SELECT 1 FROM runs WHERE run = ?", (run,)))

    def start_run(self, run: str, job: str, started: str) -> None:
        self._write("INSERT OR REPLACE INTO runs VALUES (?, ?, 'running', ?, NULL)", (run, job, started))

    def end_run(self, run: str, state: str, finished: str) -> None:
        self._write("UPDATE runs SET state = ?, finished = ? WHERE run = ?", (state, finished, run))

    def note_all_published(self, run: str) -> None:
        """All that the run was for is in the newest version: what it still does is to tidy up."""
        self._write(*_all_published(run))

    def all_published(self, run: str) -> bool:
        return self.setting(ALL_PUBLISHED) == run

    def shard_rows(self, run: str) -> dict[int, int]:
        """Row targets of the shards of a run, as far as they are chosen."""
        return dict(self._read("SELECT shard, rows FROM shard_rows WHERE run = ?", (run,)))

    def fix_shard_rows(self, run: str, chosen: list[tuple[int, int]]) -> None:
        """`chosen`: shards and their row targets."""
        self._write_all([("INSERT OR REPLACE INTO shard_rows VALUES (?, ?, ?)", (run, *one)) for one in chosen])

    # -- checkpoints

    def add_checkpoint(self, done: Checkpoint) -> None:
        values = (done.run, done.shard, done.key, done.part, done.rows, done.rejected, done.enriched, done.size)
        self._write(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, json.dumps(done.folders))
        )

    def checkpoint(self, run: str, shard: int) -> Checkpoint | None:
        rows = self._read("SELECT * FROM checkpoints WHERE run = ? AND shard = ?", (run, shard))
        return _checkpoint(rows[0]) if rows else None

    def last_checkpoint(self, run: str) -> int:
        """The last shard of a run that has a checkpoint; -1 where none has."""
        return int(self._read("SELECT COALESCE(MAX(shard), -1) FROM checkpoints WHERE run = ?", (run,))[0][0])

    def checkpoints(self) -> list[Checkpoint]:
        return [_checkpoint(row) for row in self._read("SELECT * FROM checkpoints ORDER BY run, shard")]

    def forget_checkpoints(self, kept: Collection[str] = ()) -> None:
        """All but those of the runs `kept`, and the boundaries of shards, which only the newest run goes on with."""
        chosen = f" WHERE run NOT IN ({', '.join('?' * len(kept))})"
        self._write_all([(f"DELETE FROM checkpoints{chosen}", tuple(kept)), ("DELETE FROM shard_rows", ())])

    # -- parts

    def forget_parts(self, names: list[str]) -> None:
        self._write_all([("DELETE FROM parts WHERE part = ?", (name,)) for name in names])

    def parts(self) -> list[Part]:
        """All of them, the newest last."""
        return [_part(row) for row in self._read("SELECT * FROM parts ORDER BY rowid")]

    def unused_parts(self) -> list[Part]:
        """Parts of no kept version."""
        rows = self._read("SELECT * FROM parts WHERE part NOT IN (SELECT part FROM version_parts)")
        return [_part(row) for row in rows]

    # -- versions

    def latest_version(self) -> int:
        return int(self._read("SELECT COALESCE(MAX(version), 0) FROM versions")[0][0])

    def version_before(self, run: str) -> int:
        """The newest version that another run published, 0 when there is none."""
        return int(self._read("SELECT COALESCE(MAX(version), 0) FROM versions WHERE run != ?", (run,))[0][0])

    def version_of(self, run: str) -> int:
        """The newest version, where this run has published it; else 0."""
        rows = self._read("SELECT version, run FROM versions ORDER BY version DESC LIMIT 1")
        return int(rows[0][0]) if rows and rows[0][1] == run else 0

    def version_parts(self, version: int, *, superseded: bool = False) -> list[Part]:
        """The parts that readers of a version see, in order; or those that it keeps of superseded rows."""
        rows = self._read(
            "SELECT parts.* FROM version_parts JOIN parts USING (part) WHERE version = ? AND superseded = ?"
            " ORDER BY position",
            (version, superseded),
        )
        return [_part(row) for row in rows]

    def versions(self) -> list[int]:
        return [row[0] for row in self._read("SELECT version FROM versions ORDER BY version")]

    def version_facts(self) -> list[Version]:
        """The kept versions, oldest first."""
        return [Version(*row) for row in self._read("SELECT version, run, published, rows FROM versions ORDER BY 1")]

    def note_to_be_shown(self, publication: Publication) -> None:
        """Ahead of the link: a crash between it and `add_version` leaves all that is needed to do the latter."""
        named = publication._asdict()
        for kind in ("parts", "superseded"):
            named[kind] = [asdict(part) for part in named[kind]]
        self.fix_setting(TO_BE_SHOWN, json.dumps(named))

    def to_be_shown(self) -> Publication | None:
        noted = self.setting(TO_BE_SHOWN)
        if noted is None:
            return None
        named = json.loads(noted)
        for kind in ("parts", "superseded"):
            named[kind] = [Part(**(facts | {"files": tuple(facts["files"])})) for facts in named[kind]]
        return Publication(**named)

    def add_version(self, publication: Publication) -> None:
        """Records the parts and the version that they make up, in one transaction."""
        version, run, published, parts, superseded, last = publication
        rows = sum(part.rows for part in parts)
        everything = [*parts, *superseded]
        self._write_all(
            [
                ("DELETE FROM version_parts WHERE version = ?", (version,)),
                ("INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?)", (version, run, published, rows)),
                *(_adding(part) for part in everything),
                *(
                    ("INSERT INTO version_parts VALUES (?, ?, ?)", (version, position, part.name))
                    for position, part in enumerate(everything)
                ),
                *([_all_published(run)] if last else []),
                ("DELETE FROM meta WHERE key = ?", (TO_BE_SHOWN,)),
            ]
        )

    def forget_version(self, version: int) -> None:
        self._write_all(
            [
                ("DELETE FROM version_parts WHERE version = ?", (version,)),
                ("DELETE FROM versions WHERE version = ?", (version,)),
            ]
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at `path` from any other, whatever their names; None where there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _looking(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing and leaves no file behind.

    SQLite puts a log and its index beside a database that is looked at. While a run has the ledger, and after one that
    died, they are there. Otherwise who may not write there cannot make them, and those of another user would keep the
    next run from writing: the file alone is copied to memory.
    """
    where, log = path.resolve().as_uri(), path.with_name(f"{path.name}-wal")
    if not log.exists():
        copy = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        with closing(sqlite3.connect(f"{where}?immutable=1", uri=True)) as file:
            file.backup(copy)
        if not log.exists():  # no run has begun meanwhile
            return copy
        copy.close()
    return sqlite3.connect(f"{where}?mode=ro", uri=True, check_same_thread=False)


def _adding(part: Part) -> tuple[str, tuple[object, ...]]:
    values = (part.name, json.dumps(part.tasks), json.dumps(part.files), part.rows, part.rejected, part.size)
    return "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*values, int(part.superseded), part.run)


def _all_published(run: str) -> tuple[str, tuple[object, ...]]:
    return "INSERT OR REPLACE INTO meta VALUES (?, ?)", (ALL_PUBLISHED, run)


def _part(row: tuple) -> Part:
    name, tasks, files, rows, rejected, size, superseded, run = row
    return Part(name, json.loads(tasks), tuple(json.loads(files)), rows, rejected, size, run, bool(superseded))


def _checkpoint(row: tuple) -> Checkpoint:
    run, shard, key, part, rows, rejected, enriched, size, folders = row
    spans = tuple((name, start, stop) for name, start, stop in json.loads(folders))
    return Checkpoint(run, shard, key, part, rows, rejected, enriched, size, spans)
