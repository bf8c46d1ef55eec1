"""The job that an output was last made with, as its ledger and the run's record know it."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from secbatch.errors import InputError, SecbatchError
from secbatch.job import Job
from secbatch.redaction import HIDDEN
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.lock import held, holder


@dataclass(frozen=True)
class RecordedJob:
    job: Job  # its output path is that of the layout it was asked of
    limit: int | None
    folder: Path | None  # where its relative paths start; None where the run left no record


def recorded_job(layout: Layout) -> RecordedJob:
    """The job of the newest run that got as far as work, finished or not.

    Raises InputError where there is none, or where it cannot be run again as it stands in the record; OutputHeldError
    where there is none yet, because the first run is about to make it.
    """
    try:
        return _recorded(layout)
    except SecbatchError:
        if holder(layout.lock) is not None:
            raise held(layout.lock) from None
        raise


def _recorded(layout: Layout) -> RecordedJob:
    if layout.root.is_file():
        raise InputError(f"'{layout.root}' is a file; run `secbatch enrich` again, it does all rows of a single file.")
    if not layout.ledger.exists():
        raise InputError(f"'{layout.root}' holds no dataset of secbatch; give the output folder of a run.")
    with closing(Ledger.read_only(layout.ledger)) as ledger:
        newest = ledger.newest_run()
    if newest is None:
        raise InputError(f"No run has been made into '{layout.root}' yet; start with `secbatch run`.")
    try:
        described = json.loads(newest.job)
        values, limit = described["job"], described["limit"]
        # Absolute: the job may have been run in another folder, and the output may have been moved.
        values["output"]["path"] = str(layout.root.absolute())
        job = Job.model_validate(values)
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"The job of run {newest.run} was recorded by another release of secbatch; name its file with --job."
        ) from None
    if f"{HIDDEN}@" in job.input.path or f"={HIDDEN}" in job.input.path:
        raise InputError(
            f"The record of run {newest.run} leaves the password in input.path out; name the job's file with --job."
        )
    return RecordedJob(job, limit, _folder(layout, newest.run))


def _folder(layout: Layout, run: str) -> Path | None:
    try:
        record = json.loads((layout.runs / f"{run}.json").read_text(encoding="utf-8"))
        return Path(record["folder"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the run was killed, or its record damaged
        return None
