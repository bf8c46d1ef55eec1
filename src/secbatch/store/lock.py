"""One run at a time on an output."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secbatch.errors import OutputHeldError
from secbatch.store.filesystem import explain, make_folder


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds the lock file at `path`; the kernel lets go of it when the process dies, however it dies.

    Raises OutputHeldError naming the holder when another run has it.
    """
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise explain(error, path) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputHeldError(
                f"Another run holds output '{path.parent.parent}' ({_holder(path)}); "
                "wait for it to end or stop it, then run again."
            ) from None
        os.ftruncate(handle, 0)
        note = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.write(handle, json.dumps(note).encode())
        yield
    finally:
        os.close(handle)


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text())
        return f"process {note['process']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError):  # it is being written at this moment
        return "it has just started"
