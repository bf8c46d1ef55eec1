"""One run at a time on an output."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secbatch.errors import OutputHeldError
from secbatch.store.filesystem import explain, make_folder

LOOKS, LOOK_SECONDS = 10, 0.02  # somebody who only looks who holds the lock has it for less than that


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds the lock file at `path`; the kernel lets go of it when the process dies, however it dies.

    Raises OutputHeldError naming the holder when another run has it.
    """
    handle = _take(path)
    try:
        os.ftruncate(handle, 0)
        note = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            os.write(handle, json.dumps(note).encode())
        except OSError as error:
            raise explain(error, path) from None
        yield
    finally:
        os.close(handle)


def _take(path: Path) -> int:
    """A descriptor that has the lock. A file that its holder has removed (with the whole folder) locks nobody out."""
    for _ in range(LOOKS):
        make_folder(path.parent)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # as umask allows
        except FileNotFoundError:  # a run that ends has removed the folder at this moment
            continue
        except OSError as error:
            raise explain(error, path) from None
        if not _taken(handle):
            os.close(handle)
            raise held(path)
        if _is_at(path, handle):
            return handle
        os.close(handle)
    raise OutputHeldError(f"Output '{path.parent.parent}' is being removed by the run that holds it; run again.")


def held(path: Path) -> OutputHeldError:
    """The sentence for a lock that another run has."""
    return OutputHeldError(
        f"Another run holds output '{path.parent.parent}' ({_holder(path)}); "
        "wait for it to end or stop it, then run again."
    )


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _taken(handle: int) -> bool:
    for _ in range(LOOKS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
    return False


def holder(path: Path) -> dict[str, Any] | None:
    """The note of the process that holds the lock (process, host, since; empty if it has just started), or None.

    With `suspended` where somebody has stopped that process (Ctrl-Z, SIGSTOP), as far as can be seen from here.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # never held, or not ours to look at
        return None
    try:
        # Shared and let go at once: a run that starts at this moment tries again.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        try:
            note = json.loads(path.read_text())
        except (OSError, ValueError):  # it is being written at this moment
            return {}
        if not isinstance(note, dict):
            return {}
        return {**note, "suspended": True} if _suspended(note) else note
    finally:
        os.close(handle)


def _suspended(note: dict[str, Any]) -> bool:
    if note.get("host") != socket.gethostname():
        return False
    try:
        about = Path(f"/proc/{note.get('process')}/stat").read_text()
    except OSError:  # no /proc, or it has ended meanwhile
        return False
    return about.rpartition(") ")[2][:1] in ("T", "t")


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text())
        return f"process {note['process']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written at this moment, or is none of ours
        return "it has just started"
