"""Files that become durable together: each step is waited for once, whatever their number."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from secbatch.store import faults
from secbatch.store.filesystem import add_folder, explain, sync_folders, sync_together


class DurableFiles:
    """New files, each whole under its name or not there at all. Use as a context manager: at its end they are durable.

    All are written, then all are fsynced, then all get their names, then the folders are fsynced: what follows a step
    never comes before it for any file, and a journalling file system does for many what it would do for each.
    """

    def __init__(self) -> None:
        self._written: dict[Path, tuple[Path, str]] = {}  # its name to be -> temporary file, step
        self._folders: dict[Path, None] = {}  # with new names in them; a set that keeps its order

    def __enter__(self) -> "DurableFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._settle()
        except Exception:
            self._remove()
            raise
        if kind is not None and issubclass(kind, Exception):
            self._remove()

    def write(self, path: Path, write: Callable[[Path], None], step: str = "file") -> None:
        """`write` fills a temporary file beside `path`. Raises OutputError, also at the end."""
        self._folders.update(dict.fromkeys(add_folder(path.parent)))
        temporary = path.with_name(f".{path.name}.tmp")
        self._written[path] = temporary, step
        try:
            faults.reach(f"{step}: before the write")
            write(temporary)
        except OSError as error:
            raise explain(error, path) from None

    def place(self, path: Path) -> Path:
        """Where the file `path` stands at this moment."""
        return self._written[path][0] if path in self._written else path

    def _settle(self) -> None:
        for _, step in self._written.values():
            faults.reach(f"{step}: before its fsync")
        sync_together([(temporary, path) for path, (temporary, _) in self._written.items()])
        for temporary, step in self._written.values():
            faults.record("fsync", temporary)
            faults.reach(f"{step}: after its fsync")
        while self._written:
            path, (temporary, step) = next(iter(self._written.items()))
            try:
                temporary.rename(path)
            except OSError as error:
                raise explain(error, path) from None
            del self._written[path]
            faults.record("rename", temporary, path)
            self._folders[path.parent] = None
            faults.reach(f"{step}: after its rename")
        sync_folders(self._folders)

    def _remove(self) -> None:
        """Of what has no name yet; after an interrupt the next publication does it."""
        for temporary, _ in self._written.values():
            with suppress(OSError):  # it was never made, or a disk that has become read-only keeps it
                temporary.unlink()


def write_atomically(path: Path, write: Callable[[Path], None], step: str = "file") -> None:
    """`write` fills a temporary file, which is fsynced and then renamed to `path`: whole or not at all."""
    with DurableFiles() as files:
        files.write(path, write, step)
