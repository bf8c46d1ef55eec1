"""A process of its own in which rows are tried that may end the process: it computes sets of rows until it dies."""

import contextlib
import os
import pickle
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Protocol

from secbatch import python_process
from secbatch.errors import ModelError
from secbatch.thread_limit import TRIAL, check_threads
from secbatch.worker import Enriched, Work, Worker

WAIT_SECONDS = 0.1  # between two looks at whether the run is to stop
GONE = (EOFError, OSError)  # the other end of a connection, be it amid a message
# SIGUSR1 and SIGUSR2: whoever asks all processes of a run for something that it does not know.
FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Death:
    """How a process ended amid its rows."""

    how: str  # "SIGSEGV", "out of memory", "exit code 1"
    outside: bool  # somebody may have killed it: no row is to blame


@dataclass(frozen=True)
class Loaded:
    """What a process tells of the models that it has loaded; see `Worker`."""

    precisions: dict[str, str | None]
    notices: tuple[str, ...]


class Process(Protocol):
    """What is needed of `subprocess.Popen`."""

    def wait(self) -> int: ...

    def kill(self) -> None: ...


def start() -> tuple[Process, Connection]:
    """A fresh interpreter that serves at the other end of the connection."""
    ours, theirs = Pipe()
    process = subprocess.Popen(
        python_process.arguments(f"from secbatch.trial import main; main({theirs.fileno()})"),
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env=python_process.environment(),
        start_new_session=True,  # Ctrl-C on the terminal is for the run, which then ends this process
    )
    theirs.close()
    return process, ours


class Trial:
    """Runs rows through the models in another process, which is started anew after each death."""

    def __init__(self, worker: Worker, device: str, precision: str) -> None:
        """`worker` without its weights; they are loaded over there."""
        self._sent = pickle.dumps((device, precision, worker))
        self._running: tuple[Process, Connection] | None = None
        self.loaded: Loaded | None = None  # from the first row on

    def run(self, work: Work, check: Callable[[], None]) -> Enriched | Death:
        """The rows of `work` finished, or how they ended the process. `check()` may raise, to stop the run.

        Raises what the models raise. Raises ModelError where the process dies before it has seen a row.
        """
        try:
            if self._running is None:
                self._running = start()
                with contextlib.suppress(*GONE):
                    self._running[1].send_bytes(self._sent)
                loaded = self._answer(check)
                if isinstance(loaded, BaseException):
                    raise loaded
                if isinstance(loaded, Death):
                    raise ModelError(
                        "the process that loads the models to try rows in dies before the first row; "
                        "see whether the machine has the memory for them"
                    )
                self.loaded = loaded
            killed = out_of_memory_kills()
            with contextlib.suppress(*GONE):  # the answer says how
                self._running[1].send(work)
            answer = self._answer(check, killed)
        except BaseException:
            self.close()
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _answer(self, check: Callable[[], None], killed: int = 0) -> Any:
        assert self._running is not None
        process, connection = self._running
        while not connection.poll(WAIT_SECONDS):
            check()
        try:
            return connection.recv()
        except GONE:
            self._running = None
            connection.close()
            return _death(process.wait(), killed)

    def close(self) -> None:
        if self._running is not None:
            process, connection = self._running
            self._running = None
            process.kill()
            process.wait()
            connection.close()


def _death(code: int, killed: int) -> Death:
    how = python_process.ending(code)
    if code != -signal.SIGKILL:
        return Death(how, -code in FROM_OUTSIDE)
    by_kernel = out_of_memory_kills() > killed
    return Death("out of memory" if by_kernel else how, not by_kernel)


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for want of memory (their own limit's included) since it started."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:  # not Linux: a kill is taken for one from outside
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def main(handle: int) -> None:
    """The other process: answers each Work with an Enriched, or with what was raised, until nobody asks any more."""
    with contextlib.suppress(OSError):  # where memory runs out, it is this process that goes, not the run
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    serve(Connection(handle))


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def serve(connection: Connection) -> None:
    """Answers until the other end is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump of all weights for each death would take the disk
    try:
        device, precision, worker = pickle.loads(connection.recv_bytes())  # from the run that has started this process
    except GONE:
        return
    work: Work | None = None  # first the weights
    while True:
        answer: Enriched | Loaded | BaseException
        try:
            if work is not None:
                answer = worker.finish(worker.compute(worker.encode(work)))
            else:
                answer = _load(worker, device, precision)
        except BaseException as error:  # raised again by the run
            answer = error
        try:
            _send(connection, answer)
            work = connection.recv()
        except GONE:
            return


def _load(worker: Worker, device: str, precision: str) -> Loaded:
    check_threads(TRIAL)  # OpenMP ends a process that it has no threads for: no row must be taken for the cause
    if device.startswith("cuda"):
        from secbatch.models.device import choose

        choose(device, precision)  # settles how float32 is multiplied in this process
    worker.load()
    return Loaded(worker.precisions, worker.notices)


def _send(connection: Connection, answer: Enriched | Loaded | BaseException) -> None:
    try:
        content = pickle.dumps(answer)
    except Exception as error:  # what was raised holds something that cannot go
        content = pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer} ({error})"))
    connection.send_bytes(content)
