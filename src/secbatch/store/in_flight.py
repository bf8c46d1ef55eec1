"""Which rows are in computation: read by the next run when this process dies without a word."""

import contextlib
import shutil
from pathlib import Path

import numpy as np

from secbatch.store.filesystem import explain
from secbatch.store.row_keys import RowKeys

SUSPECTS = "suspects"  # the file of those that are left from earlier deaths
BOOT = Path("/proc/sys/kernel/random/boot_id")


class InFlight:
    """A small file for each shard that is at work, removed with its checkpoint. Use as a context manager.

    Nothing is fsynced: pages that a dead process has written survive it, and a machine that went down explains the
    death by itself. What earlier processes left is in `suspects`; it stays until a run comes to its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boot = BOOT.read_text().strip() if BOOT.exists() else "unknown"
        self.suspects = np.empty(0, np.uint64)  # first halves of task keys, see `RowKeys.done`

    def __enter__(self) -> "InFlight":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = sorted(self._folder.iterdir())
            # A mark of another boot: the machine went down, no row did it.
            own = [path for path in found if path.name == SUSPECTS or path.name.startswith(f"{self._boot}.")]
            if own:
                self.suspects = np.unique(np.concatenate([*map(_read, own)]))
                self._write(SUSPECTS, self.suspects)
            for path in found:
                if path.name != SUSPECTS:
                    path.unlink()
        except OSError as error:
            raise explain(error, self._folder) from None
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None or not len(self.suspects):
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for path in self._folder.glob(f"{self._boot}.*"):
            with contextlib.suppress(OSError):
                path.unlink()

    def start(self, shard: int, keys: RowKeys) -> None:
        """`keys`: of the rows that are to be computed from now on."""
        try:
            self._write(f"{self._boot}.{shard}", _halves(keys))
        except OSError as error:
            raise explain(error, self._folder) from None

    def done(self, shard: int) -> None:
        try:
            (self._folder / f"{self._boot}.{shard}").unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, self._folder) from None

    def suspected(self, keys: RowKeys) -> bool:
        """Whether one of these rows was in computation when a process died."""
        return bool(len(self.suspects)) and bool(np.isin(_halves(keys), self.suspects).any())

    def _write(self, name: str, halves: np.ndarray) -> None:
        path = self._folder / name
        path.unlink(missing_ok=True)  # never through a link that somebody has put there
        path.write_bytes(halves.tobytes())


def _halves(keys: RowKeys) -> np.ndarray:
    halves = np.concatenate([np.empty(0, np.uint64), *(done[:, 0] for done in keys.done.values())])
    return halves[halves != 0]


def _read(path: Path) -> np.ndarray:
    content = path.read_bytes()  # one that was being written is cut
    return np.frombuffer(content[: len(content) // 8 * 8], np.uint64)
