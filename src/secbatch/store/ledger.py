"""The ledger: which shards are done for which tasks, and which parts make up each version (SQLite)."""

import json
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from secbatch.errors import OutputError
from secbatch.store.filesystem import make_folder

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    run TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, finished TEXT
);
-- A part is one or several immutable files (one for each partition value) that hold one shard's rows.
CREATE TABLE parts (
    part TEXT PRIMARY KEY,       -- name: content key and fingerprints, so a redo gives the same name
    content TEXT NOT NULL,       -- content key of the shard: hash of its rows and their identities
    tasks TEXT NOT NULL,         -- JSON: task name -> fingerprint
    files TEXT NOT NULL,         -- JSON: paths under parts/
    sources TEXT NOT NULL,       -- JSON: the input files the rows come from
    rows INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    run TEXT NOT NULL
);
CREATE INDEX parts_content ON parts (content);
CREATE TABLE version_parts (version INTEGER NOT NULL, position INTEGER NOT NULL, part TEXT NOT NULL,
    PRIMARY KEY (version, position));
CREATE TABLE versions (version INTEGER PRIMARY KEY, run TEXT NOT NULL, published TEXT NOT NULL, rows INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Part:
    """An immutable piece of the dataset: the rows of one shard."""

    name: str
    content: str
    tasks: dict[str, str]
    files: tuple[str, ...]
    sources: tuple[str, ...]
    rows: int
    rejected: int
    run: str


@dataclass(frozen=True)
class Version:
    """What the ledger knows of a version."""

    number: int
    run: str  # the run that published it; of a rollback, see secbatch.store.rollback
    published: str  # ISO 8601, UTC
    rows: int


@dataclass(frozen=True)
class Run:
    """What the ledger knows of a run."""

    run: str
    job: str  # JSON, see secbatch.runner
    state: str  # running, finished, interrupted or failed
    started: str


class Ledger:
    """Opened by one run at a time (the lock sees to that), used from several of its threads."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._path = path
        self._mutex = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._open_schema()
        except sqlite3.Error as error:
            raise OutputError(
                f"The ledger '{path}' cannot be opened ({error}); move it away to start afresh."
            ) from None

    @classmethod
    def read_only(cls, path: Path) -> "Ledger":
        """For looking only: needs no lock and changes nothing."""
        ledger = cls.__new__(cls)
        ledger._path, ledger._mutex = path, threading.Lock()
        try:
            where = f"{path.resolve().as_uri()}?mode=ro"
            ledger._connection = sqlite3.connect(where, uri=True, check_same_thread=False)
            ledger.shard_rows()  # a file that is no ledger shows at the first look
        except sqlite3.Error as error:
            raise OutputError(f"The ledger '{path}' cannot be read ({error}); move it away to start afresh.") from None
        return ledger

    def _open_schema(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._connection:
                self._connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version > SCHEMA_VERSION:
            raise OutputError(
                f"The ledger '{self._path}' was written by a newer secbatch (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); upgrade secbatch or choose another output."
            )

    def close(self) -> None:
        self._connection.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        self._write_all([(statement, values)])

    def _write_all(self, statements: list[tuple[str, tuple[object, ...]]]) -> None:
        with self._mutex:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    self._connection.execute(statement, values)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise OutputError(f"The ledger '{self._path}' cannot be written: {error}.") from None

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple]:
        with self._mutex:
            return self._connection.execute(statement, values).fetchall()

    # -- identity of the dataset

    def setting(self, key: str) -> str | None:
        rows = self._read("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def fix_setting(self, key: str, value: str) -> None:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def shard_rows(self) -> tuple[int, ...] | None:
        """Row targets of the first, second, ... shards, as the first run on this output fixed them."""
        fixed = self.setting("shard_rows")
        return tuple(json.loads(fixed)) if fixed else None

    # -- runs

    def unfinished_run(self, job: str) -> str | None:
        """The newest run, when it is of the same job and did not finish: a rerun goes on as that run."""
        rows = self._read("SELECT run, job, state FROM runs ORDER BY rowid DESC LIMIT 1")
        return rows[0][0] if rows and rows[0][1] == job and rows[0][2] != "finished" else None

    def newest_run(self) -> Run | None:
        rows = self._read("SELECT run, job, state, started FROM runs ORDER BY rowid DESC LIMIT 1")
        return Run(*rows[0]) if rows else None

    def start_run(self, run: str, job: str, started: str) -> None:
        self._write("INSERT OR REPLACE INTO runs VALUES (?, ?, 'running', ?, NULL)", (run, job, started))

    def end_run(self, run: str, state: str, finished: str) -> None:
        self._write("UPDATE runs SET state = ?, finished = ? WHERE run = ?", (state, finished, run))

    # -- parts

    def add_part(self, part: Part) -> None:
        self._write(
            "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                part.name,
                part.content,
                json.dumps(part.tasks),
                json.dumps(part.files),
                json.dumps(part.sources),
                part.rows,
                part.rejected,
                part.run,
            ),
        )

    def parts_of(self, content: str) -> list[Part]:
        """Every part that holds the rows with this content key, newest first."""
        return [
            _part(row) for row in self._read("SELECT * FROM parts WHERE content = ? ORDER BY rowid DESC", (content,))
        ]

    def forget_parts(self, names: list[str]) -> None:
        self._write_all([("DELETE FROM parts WHERE part = ?", (name,)) for name in names])

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

    def version_parts(self, version: int) -> list[Part]:
        rows = self._read(
            "SELECT parts.* FROM version_parts JOIN parts USING (part) WHERE version = ? ORDER BY position",
            (version,),
        )
        return [_part(row) for row in rows]

    def versions(self) -> list[int]:
        return [row[0] for row in self._read("SELECT version FROM versions ORDER BY version")]

    def version_facts(self) -> list[Version]:
        """The kept versions, oldest first."""
        return [Version(*row) for row in self._read("SELECT version, run, published, rows FROM versions ORDER BY 1")]

    def add_version(self, version: int, run: str, published: str, parts: list[Part]) -> None:
        rows = sum(part.rows for part in parts)
        self._write_all(
            [
                ("DELETE FROM version_parts WHERE version = ?", (version,)),
                ("INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?)", (version, run, published, rows)),
                *(
                    ("INSERT INTO version_parts VALUES (?, ?, ?)", (version, position, part.name))
                    for position, part in enumerate(parts)
                ),
            ]
        )

    def forget_version(self, version: int) -> None:
        self._write_all(
            [
                ("DELETE FROM version_parts WHERE version = ?", (version,)),
                ("DELETE FROM versions WHERE version = ?", (version,)),
            ]
        )


def _part(row: tuple) -> Part:
    name, content, tasks, files, sources, rows, rejected, run = row
    return Part(
        name,
        content,
        json.loads(tasks),
        tuple(json.loads(files)),
        tuple(json.loads(sources)),
        rows,
        rejected,
        run,
    )
