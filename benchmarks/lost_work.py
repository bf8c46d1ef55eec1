"""What a kill costs: python benchmarks/lost_work.py [--rates 2 50000] [--seconds 150 20].

A run whose model does a given number of rows a second is killed after so many seconds. Prints how many rows the model
had done, how many of them stand in finished checkpoints, and how many seconds of the model's work are lost.
"""

import argparse
import mmap
import os
import signal
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from secbatch.job import Input, Job, Output
from secbatch.models.resolved import ResolvedModel
from secbatch.runner import run_job
from secbatch.task_specs import FillMask
from secbatch.tasks.base import TaskColumns


class PacedTask:
    """Adds the text in upper case, at a given speed; counts the rows it has done where another process can see it."""

    def __init__(self, name: str, spec: Any, rate: float, done: mmap.mmap) -> None:
        self.name, self._spec, self._rate, self._done = name, spec, rate, done
        self.reads, self.notices = (spec.text,), ()
        self.fields = (pa.field(name, pa.string()),)

    def fingerprint(self) -> str:
        return "paced"

    def load(self) -> None:
        pass

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> Any:
        return table.column(self._spec.text).combine_chunks()

    def compute(self, encoded: Any) -> Any:
        begin, before = time.perf_counter(), int.from_bytes(self._done[:8], "little")
        done = 0
        while done < len(encoded):
            done = min(int((time.perf_counter() - begin) * self._rate), len(encoded))
            self._done[:8] = (before + done).to_bytes(8, "little")
            time.sleep(0.005)
        return pc.utf8_upper(encoded)

    def finish(self, computed: Any) -> TaskColumns:
        return TaskColumns({self.name: computed}, tokens=len(computed))


def killed_run(rate: float, seconds: float, folder: Path) -> tuple[int, int]:
    """Rows that the model had done, and rows of finished checkpoints, when the run was killed."""
    rows = int(rate * seconds * 2) + 1000
    table = pa.table({"id": pa.array(range(rows)), "text": [f"sentence number {number}" for number in range(rows)]})
    pa.csv.write_csv(table, folder / "in.csv")
    job = Job(
        name="paced",
        input=Input(path=str(folder / "in.csv"), id=("id",)),
        tasks={"up": FillMask(type="fill-mask", model="paced", text="text")},
        output=Output(path=str(folder / "out")),
        device="cpu",
    )
    done = mmap.mmap(-1, 8)
    model = ResolvedModel("paced", None, None, Path(), "0" * 64, "0" * 64, None)
    process = os.fork()
    if not process:
        with (
            patch("secbatch.models.resolve.resolve", lambda name, revision=None: model),
            patch("secbatch.worker.build_task", lambda name, spec, *rest: PacedTask(name, spec, rate, done)),
        ):
            run_job(job)
        os._exit(0)
    begin = time.monotonic()
    while not done[:8].strip(b"\0") and time.monotonic() - begin < 60:
        time.sleep(0.01)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with sqlite3.connect(folder / "out" / "_secbatch" / "ledger.sqlite") as ledger:
        (kept,) = ledger.execute("SELECT COALESCE(SUM(rows), 0) FROM checkpoints").fetchone()
    return int.from_bytes(done[:8], "little"), kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rates", type=float, nargs="+", default=[2.0, 50_000.0], help="rows a second")
    parser.add_argument("--seconds", type=float, nargs="+", default=[150.0, 20.0], help="until the kill, for each rate")
    arguments = parser.parse_args()
    print("rows/s of the model  killed after  rows done  in checkpoints  lost (seconds of the model)")
    for rate, seconds in zip(arguments.rates, arguments.seconds, strict=True):
        with tempfile.TemporaryDirectory(prefix="secbatch-bench-") as folder:
            done, kept = killed_run(rate, seconds, Path(folder))
        print(f"{rate:19,.0f} {seconds:10.0f} s {done:10,} {kept:14,} {(done - kept) / rate:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
