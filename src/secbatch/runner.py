"""The one door: `run_job(job)` for the command line, Python callers and tests."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from secbatch import run_identity
from secbatch.arrow_memory import use_system_memory
from secbatch.job import Job, check_job
from secbatch.models.threads import restored_threads
from secbatch.output_checks import check_place
from secbatch.reporting import Reporter, Silent
from secbatch.run_date import pinned
from secbatch.run_identity import described
from secbatch.run_options import RunOptions
from secbatch.run_result import RunResult
from secbatch.running import Run
from secbatch.store.layout import Layout
from secbatch.store.lock import hold
from secbatch.store.rebuild import open_ledger
from secbatch.task_specs import Chat, writes_here

__all__ = ["RunResult", "run_job", "shard_rows_schedule"]


def shard_rows_schedule(job: Job, cuda: bool) -> tuple[int, ...]:
    """Row targets of the first shards, before the models' speed is known (see secbatch.pacing); 0: as measured.

    Small ones: they are cut before the first is done, and a model may do as little as two rows a second. An endpoint
    does as many at a time as may be asked of it; the second shard has work for it while the first is published.
    """
    asked = [spec.concurrency for spec in job.tasks.values() if isinstance(spec, Chat) and spec.endpoint]
    writes = any(map(writes_here, job.tasks.values()))
    if asked and not writes:
        return (max(16, *asked), max(32, *(4 * count for count in asked)), 0)
    if cuda:
        return (64, 128, 0) if writes else (128, 512, 2048, 0)
    return (16, 32, 0) if writes else (16, 64, 128, 0)


def run_job(
    job: Job,
    *,
    limit: int | None = None,
    options: RunOptions | None = None,
    reporter: Reporter | None = None,
    ended: Callable[[RunResult], None] | None = None,
    finished: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Runs `job` to its end, or goes on with its unfinished run.

    `limit`: the same as in `options`, for short, and goes before it. `ended` is told the result also of a run that
    fails or is interrupted, where it got far enough to have one. `finished` is called after a run that came to its end,
    while the output is still held.

    Raises SecbatchError (with an exit code) for what stops a run as a whole; rows that fail do not.
    Interrupted is raised after finished shards have been recorded.
    """
    use_system_memory()
    check_job(job)
    asked = options or RunOptions()
    if limit is not None:
        asked = replace(asked, limit=limit)
    new_run = run_identity.new_run_id()
    job, dated = pinned(job, new_run, lambda job: described(job, asked))
    layout = Layout(Path(job.output.path))
    check_place(layout)
    made = [folder for folder in (layout.internal, layout.root) if not folder.exists()]
    with hold(layout.lock), restored_threads():
        if layout.ledger.exists():
            made = []  # another run has made the output, and finished, since the look above
        run = None
        try:
            ledger, notice = open_ledger(layout)
            try:
                told = reporter or Silent()
                run = Run(job, layout, ledger, asked, told, lambda cuda: shard_rows_schedule(job, cuda), new_run)
                result = run.execute([text for text in (dated, notice) if text])
            finally:
                ledger.close()
                if ended and run:
                    ended(run.result)
        finally:
            if made and not (run and run.result.device):
                _leave_no_trace(made)
        if finished:
            finished(result)
    return result


def _leave_no_trace(made: list[Path]) -> None:
    """Removes the folders of a run that was refused before any work: a typo should not leave an output behind."""
    shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        with contextlib.suppress(OSError):  # somebody else's file is in it
            folder.rmdir()
