"""A checksum of all that stands in the ledger: SQLite does not notice a bit that has flipped within a value.

It stands among the ledger's settings from the end of a run to the first change by the next: a run that was killed has
left none.
"""

import sqlite3
import zlib

SEAL = "checksum"
BREAK: tuple[str, tuple[object, ...]] = ("DELETE FROM meta WHERE key = ?", (SEAL,))  # ahead of every change
TABLES = ("sqlite_master", "meta", "runs", "shard_rows", "checkpoints", "parts", "version_parts", "versions")


def put_on(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.Error."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SEAL, _checksum(connection)))


def check(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError where there is a seal, and what stands in the ledger is something else."""
    try:
        noted = dict(connection.execute("SELECT key, value FROM meta")).get(SEAL)
        if noted is not None and noted != _checksum(connection):
            raise sqlite3.DatabaseError("what stands in it does not have its checksum")
    except sqlite3.OperationalError as error:  # a table's name, or a text that is none any longer
        raise sqlite3.DatabaseError(str(error)) from None


def _checksum(connection: sqlite3.Connection) -> str:
    found = 0
    for table in TABLES:
        columns = "type, name, tbl_name, sql" if table == "sqlite_master" else "*"
        for row in connection.execute(f"SELECT {columns} FROM {table} ORDER BY rowid"):
            if row[0] != SEAL:
                found = zlib.crc32(repr(row).encode(), found)
    return f"{found:08x}"
