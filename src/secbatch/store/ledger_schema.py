"""The ledger's tables, and how those of an older release become them."""

import json
import re
import sqlite3
from pathlib import Path

SCHEMA_VERSION = 2

RUN_TABLES = """
CREATE TABLE shard_rows (  -- boundaries: row targets, fixed once chosen
    run TEXT NOT NULL, shard INTEGER NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY (run, shard)
);
CREATE TABLE checkpoints (  -- finished shards that no version shows yet
    run TEXT NOT NULL,
    shard INTEGER NOT NULL,
    key TEXT NOT NULL,           -- of all that stands in the shard, the fingerprints and the base version
    part TEXT NOT NULL,          -- its files, under checkpoints/
    rows INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    enriched INTEGER NOT NULL,
    size INTEGER NOT NULL,       -- bytes
    folders TEXT NOT NULL,       -- JSON: [partition folder, first row, row after the last]
    PRIMARY KEY (run, shard)
);
"""
PARTS_TABLE = """
CREATE TABLE parts (
    part TEXT PRIMARY KEY,       -- name: the file's path under parts/, without its ending
    tasks TEXT NOT NULL,         -- JSON: task name -> fingerprints that its rows have
    files TEXT NOT NULL,         -- JSON: paths under parts/; one, but for parts of an older release's making
    rows INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    size INTEGER NOT NULL,       -- bytes
    superseded INTEGER NOT NULL, -- 1: rows that lost to a later row with their id; kept for reuse, shown to nobody
    run TEXT NOT NULL
);
"""
SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    run TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, finished TEXT
);
{PARTS_TABLE}
CREATE TABLE version_parts (version INTEGER NOT NULL, position INTEGER NOT NULL, part TEXT NOT NULL,
    PRIMARY KEY (version, position));
CREATE TABLE versions (version INTEGER PRIMARY KEY, run TEXT NOT NULL, published TEXT NOT NULL, rows INTEGER NOT NULL);
{RUN_TABLES}
"""


def create(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def migrate(connection: sqlite3.Connection, version: int, parts: Path) -> None:
    """Brings a ledger of an older schema to this one, in one transaction. `parts`: the folder of the part files."""
    if version == 1:
        _from_1(connection, parts)


def _from_1(connection: sqlite3.Connection, parts: Path) -> None:
    """Schema 1 had one part a shard, with a file for each partition; now each file is a part.

    Their row keys are worked out from the files when they are first asked for.
    """
    old = {row[0]: row for row in connection.execute("SELECT part, tasks, files, run FROM parts")}
    places = connection.execute("SELECT version, position, part FROM version_parts ORDER BY 1, 2").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    try:
        for table in ("parts", "version_parts"):
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        for statement in re.sub(r"--.*", "", PARTS_TABLE + RUN_TABLES).split(";"):
            connection.execute(statement)
        connection.execute(
            "CREATE TABLE version_parts (version INTEGER NOT NULL, position INTEGER NOT NULL, part TEXT NOT NULL,"
            " PRIMARY KEY (version, position))"
        )
        for _, tasks, files, run in old.values():
            known = json.dumps({name: [fingerprint] for name, fingerprint in json.loads(tasks).items()})
            for file in json.loads(files):
                connection.execute(
                    "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                    (file.removesuffix(".parquet"), known, json.dumps([file]), *_counts(parts / file), run),
                )
        position: dict[int, int] = {}
        for version, _, part in places:
            for file in json.loads(old[part][2]) if part in old else ():
                place = position.get(version, 0)
                position[version] = place + 1
                name = file.removesuffix(".parquet")
                connection.execute("INSERT INTO version_parts VALUES (?, ?, ?)", (version, place, name))
        for table in ("parts", "version_parts"):
            connection.execute(f"DROP TABLE old_{table}")
        connection.execute("DELETE FROM meta WHERE key = 'shard_rows'")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _counts(file: Path) -> tuple[int, int, int]:
    """Rows, rejected rows and bytes of a part file; zeros where it is gone."""
    import pyarrow.parquet as pq

    if not file.exists():
        return 0, 0, 0
    status = pq.read_table(file, columns=["secbatch_status"], partitioning=None).column(0).to_pylist()
    return len(status), status.count("rejected"), file.stat().st_size
