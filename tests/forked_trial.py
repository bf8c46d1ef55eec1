"""The process that rows are tried in, forked from a server that has imported all it needs: an interpreter is slow."""

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from unittest.mock import patch

from secbatch.trial import serve

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pandas", "secbatch.trial", "secbatch.tasks.encoder_task", "poisonous_task", "frozen"])


def _run_server() -> None:
    """With a path on which it finds what is beside this file: what it does not find it imports in each process."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    with patch.dict(os.environ, {"PYTHONPATH": path}):
        forkserver.ensure_running()


class Forked:
    """What `secbatch.trial` needs of a process."""

    def __init__(self, theirs: Connection) -> None:
        _run_server()
        self._process = _context.Process(target=serve, args=(theirs,))
        self._process.start()
        self.pid = self._process.pid

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def start() -> tuple[Forked, Connection]:
    """In place of `secbatch.trial.start`."""
    ours, theirs = Pipe()
    process = Forked(theirs)
    theirs.close()
    return process, ours
