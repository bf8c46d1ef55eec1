"""What a run in progress tells other processes: a small file, written anew every few seconds."""

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

INTERVAL_SECONDS = 2.0


class ProgressFile:
    """Writes `snapshot()` to `path` from a thread of its own until it is left. Use as a context manager.

    Each time whole or not at all, and without fsync: the file is worth nothing after a crash of the machine. When
    the disk refuses, `failed` is told once and the run goes on without it.
    """

    def __init__(self, path: Path, snapshot: Callable[[], dict[str, Any]], failed: Callable[[str], None]) -> None:
        self._path, self._snapshot, self._failed = path, snapshot, failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="progress", daemon=True)

    def __enter__(self) -> "ProgressFile":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # a reader knows a run that has ended from one in progress by the lock
            self._path.unlink()

    def _write_on(self) -> None:
        while True:
            try:
                self._write()
            except OSError as error:
                self._failed(f"`secbatch status` will not see this run: {self._path} cannot be written ({error}).")
                return
            if self._stop.wait(INTERVAL_SECONDS):
                return

    def _write(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.unlink(missing_ok=True)  # never through a link that somebody has put there
        temporary.write_text(json.dumps(self._snapshot()), encoding="utf-8")
        temporary.rename(self._path)


def read_progress(path: Path) -> dict[str, Any] | None:
    """The newest snapshot; None when no run has left one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it was cut by a crash of the machine
        return None
    return found if isinstance(found, dict) else None
