"""What SQLite says of the ledger, as a sentence that tells what to do."""

import sqlite3
from pathlib import Path

from secbatch.errors import OutputError

# By SQLite's result codes, of which the low byte is the kind.
_REMEDIES = {
    sqlite3.SQLITE_CANTOPEN: "mend the rights of the file and of its folder, and run again",
    sqlite3.SQLITE_PERM: "mend the rights of the file and of its folder, and run again",
    sqlite3.SQLITE_READONLY: "mend the rights of the file and of its folder, and run again",
    sqlite3.SQLITE_FULL: "free space on its disk and run again, finished work is kept and reused",
    sqlite3.SQLITE_BUSY: "another program has it open: end that, and run again",
    sqlite3.SQLITE_LOCKED: "another program has it open: end that, and run again",
    sqlite3.SQLITE_IOERR: "see to its disk, and run again",
}


class DamagedLedgerError(OutputError):
    """The file is no SQLite database, or a broken one."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"The ledger '{path}' cannot be opened ({why}); the next run makes a new one from the parts.")
        self.why = why


def explain(error: sqlite3.Error, path: Path, action: str) -> OutputError:
    """`action`: what cannot be done with it: opened, read or written."""
    remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "see to the file and its disk, and run again")
    return OutputError(f"The ledger '{path}' cannot be {action} ({error}); {remedy}.")
