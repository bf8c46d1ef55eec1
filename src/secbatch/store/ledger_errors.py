"""What SQLite says of the ledger, as a sentence that tells what to do."""

import errno
import os
import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path

from secbatch.errors import OutputError
from secbatch.file_size_limit import beyond_limit, size_limit
from secbatch.store.filesystem import SHORT_OF_FILES

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


# SQLite does not say what the system has refused. Its index of the log grows by so many bytes.
_STEP = 1 << 15


class DamagedLedgerError(OutputError):
    """The file is no SQLite database, or a broken one."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"The ledger '{path}' cannot be opened ({why}); the next run makes a new one from the parts.")
        self.why = why


def explain(error: sqlite3.Error, path: Path, action: str) -> OutputError:
    """`action`: what cannot be done with it: opened, read or written."""
    code = getattr(error, "sqlite_errorcode", 0)
    kind = code & 0xFF
    if kind == sqlite3.SQLITE_IOERR and _at_limit(path):
        return beyond_limit(f"The ledger '{path}', or its log,")
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # of the index, for which there is no room
        kind = sqlite3.SQLITE_FULL
    elif kind == sqlite3.SQLITE_IOERR and _over_quota(path):
        return OutputError(
            f"The ledger '{path}' cannot be {action}: the disk quota is exceeded; free space and run again, finished"
            " work is kept and reused."
        )
    remedy = _REMEDIES.get(kind, "see to the file and its disk, and run again")
    if kind == sqlite3.SQLITE_CANTOPEN and _short_of_files():
        remedy = "let the process have more open files (ulimit -n), and run again"
    return OutputError(f"The ledger '{path}' cannot be {action} ({error}); {remedy}.")


def _over_quota(path: Path) -> bool:
    """Whether the system refuses a few bytes more beside the file for somebody's quota."""
    try:
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            file.write(bytes(_STEP))
    except OSError as error:
        return error.errno == errno.EDQUOT
    return False


def _short_of_files() -> bool:
    """Whether the process may not open three files more: a ledger, its log, and the log's index."""
    with ExitStack() as opened:
        try:
            for _ in range(3):
                opened.enter_context(Path(os.devnull).open("rb"))
        except OSError as error:
            return error.errno in SHORT_OF_FILES
    return False


def _at_limit(path: Path) -> bool:
    """Whether the next step of one of its files would be beyond the size that a file may have here."""
    limit = size_limit()
    files = [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm")]
    largest = max((file.stat().st_size for file in files if file.exists()), default=0)
    return limit is not None and largest + _STEP > limit
