"""Runs a small job in processes that are killed: a server that imports once and forks for every try.

Started by `kills.KillServer`; talks JSON lines on stdin and stdout.
"""

import gc
import json
import mmap
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  (what a run imports, pyarrow's needs too, is imported before the first fork: it takes seconds)
import pyarrow as pa
import tokenizers  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401
from fake_task import Counter, UpperTask
from kills import unused

import secbatch.finished_shards
import secbatch.models.device
import secbatch.models.resolve
import secbatch.run_identity
import secbatch.tasks.encoder_task
import secbatch.trial
import secbatch.worker
from secbatch.cli.stopping import Interruptible
from secbatch.errors import Interrupted, SecbatchError
from secbatch.job import Job
from secbatch.models.resolved import ResolvedModel
from secbatch.runner import run_job
from secbatch.store import faults
from secbatch.store.layout import Layout
from secbatch.store.rollback import roll_back

import secbatch.runner  # isort: skip


class Seen:
    """The point that the child reached last and how often it reached each, where the parent can see it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4 * (1 + len(faults.POINTS)))

    def clear(self) -> None:
        self._memory[:] = b"\xff\xff\xff\xff" + bytes(len(self._memory) - 4)

    def visit(self, point: str) -> int:
        number = faults.POINTS.index(point)
        place = 4 * (1 + number)
        count = int.from_bytes(self._memory[place : place + 4], "little") + 1
        self._memory[place : place + 4] = count.to_bytes(4, "little")
        self._memory[:4] = number.to_bytes(4, "little")
        return count

    def last(self) -> str | None:
        number = int.from_bytes(self._memory[:4], "little")
        return faults.POINTS[number] if number < len(faults.POINTS) else None

    def counts(self) -> dict[str, int]:
        counts = memoryview(self._memory).cast("I")[1:].tolist()
        return dict(zip(faults.POINTS, counts, strict=True))


def prepare() -> None:
    model = ResolvedModel("fake", None, None, Path(), "0" * 64, "0" * 64, None)
    secbatch.models.resolve.resolve = lambda name, revision=None: model  # type: ignore[assignment]
    counter = Counter()
    secbatch.worker.build_task = lambda name, spec, *rest: UpperTask(name, spec, counter)  # type: ignore[assignment]
    secbatch.runner.shard_rows_schedule = lambda job, cuda: (2, 3)
    secbatch.finished_shards.PUBLISH_SECONDS = 0.3  # type: ignore[misc]


def slowly(compute: Callable[..., Any], seconds: float, begun: int) -> Callable[..., Any]:
    """A device batch takes its time, in steps between which Python gets to work. `begun`: a pipe that is told."""

    def slow(self: UpperTask, encoded: Any) -> Any:
        os.write(begun, b".")
        for _ in range(int(seconds / 0.01)):
            time.sleep(0.01)
        return compute(self, encoded)

    return slow


class Forked:
    """The process that rows are tried in, forked before the run has threads: an interpreter takes seconds to start."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        self._process = os.fork()
        if not self._process:
            self.connection.close()  # or the end of the run would not be seen
            try:
                secbatch.trial.serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def start(self) -> tuple["Forked", Connection]:
        return self, self.connection

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])

    def kill(self) -> None:
        os.kill(self._process, signal.SIGKILL)


def child(request: dict[str, Any], seen: Seen, begun: int) -> int:
    os.chdir(request["folder"])
    secbatch.run_identity.new_run_id = lambda: unused(request["run"])
    kill, one_at_a_time = request.get("kill"), threading.Lock()

    def visit(point: str) -> None:
        if point not in faults.POINTS:  # records for people, which no run reads again
            return
        with one_at_a_time:  # no other thread comes to its next point before the kill
            count = seen.visit(point)
            if kill and point == kill[0] and count == kill[1]:
                os.kill(os.getpid(), signal.SIGKILL)

    faults.install(visit)
    if request.get("slow"):
        UpperTask.compute = slowly(UpperTask.compute, request["slow"], begun)  # type: ignore[method-assign]
    secbatch.trial.start = Forked().start
    try:
        with Interruptible():
            if request.get("rollback"):
                roll_back(Layout(Path("out")))
            else:
                run_job(Job.model_validate(request["job"]))
    except Interrupted as stop:
        return stop.exit_code
    except SecbatchError as error:
        print(error, file=sys.stderr, flush=True)
        return 99
    return 0


def main() -> None:
    prepare()
    pa.set_cpu_count(1)
    gc.freeze()  # what has been imported: a child that looked for garbage in it would copy all of its memory
    seen = Seen()
    for line in sys.stdin:
        request = json.loads(line)
        seen.clear()
        begin = time.monotonic()
        at_work, begun = os.pipe()
        process = os.fork()
        if not process:
            try:
                code = child(request, seen, begun)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                code = 98
            os._exit(code)
        os.close(begun)
        if request.get("slow"):
            os.read(at_work, 1)  # a busy machine may take its time until there
        os.close(at_work)
        if request.get("after") is not None:
            time.sleep(random.Random(request["seed"]).uniform(0, request["after"]))
            os.kill(process, request.get("signal", signal.SIGKILL))
        status = os.waitpid(process, 0)[1]
        answer = {
            "killed": os.WIFSIGNALED(status),
            "code": os.waitstatus_to_exitcode(status),
            "last": seen.last(),
            "counts": seen.counts(),
            "seconds": time.monotonic() - begin,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
