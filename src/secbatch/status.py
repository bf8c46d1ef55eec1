"""What goes on in an output: the run in progress, or how the last one ended."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from secbatch.errors import EXIT_FAILURE, EXIT_HELD, EXIT_INTERRUPTED, EXIT_OK, InputError
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Run
from secbatch.store.lock import holder
from secbatch.store.progress import read_progress


class _Told(BaseModel):
    """What is told of a run, as its record has it."""

    model_config = ConfigDict(strict=True)


class _Counts(_Told):
    read: int
    enriched: int
    reused: int
    rejected: int
    unparseable: int
    rows_in_dataset: int


class _Shown(_Told):
    version: int | None


class _Record(_Told):
    run: str
    state: str
    exit_code: int
    error: str | None
    started: str
    finished: str
    seconds: float
    counts: _Counts
    output: _Shown


@dataclass(frozen=True)
class Status:
    """`state`: running; finished, interrupted, failed (the last run's own word); died (killed, no word); none."""

    state: str
    exit_code: int  # of `secbatch status`: 75 while a run holds the output, else that of the last run
    holder: dict[str, Any] | None  # process, host and since of the run in progress
    progress: dict[str, Any] | None  # newest snapshot of a run in progress, or of one that ended without a record
    last: dict[str, Any] | None  # record of the last run that could write one


def read_status(layout: Layout) -> Status:
    """Looks, without disturbing a run. Raises InputError where no run has ever been."""
    if not layout.internal.is_dir():
        raise InputError(f"'{layout.root}' holds no output of secbatch; give the output folder of a run.")
    held_by = holder(layout.lock)
    last = _latest(layout.runs / "latest.json")
    if held_by is not None:
        return Status("running", EXIT_HELD, held_by, _progress_of_holder(layout, held_by), last)
    newest = _newest_run_without_record(layout, last)
    held_by = holder(layout.lock) if newest else None
    if held_by is not None:  # it started between the two looks
        return Status("running", EXIT_HELD, held_by, _progress_of_holder(layout, held_by), last)
    if newest is not None:
        known = {"run": newest.run, "started": newest.started}
        if newest.state != "running":
            code = EXIT_INTERRUPTED if newest.state == "interrupted" else EXIT_FAILURE
            return Status(newest.state, code, None, known, last)
        progress = read_progress(layout.progress)
        mine = progress if progress and progress.get("run") == newest.run else None
        return Status("died", EXIT_FAILURE, None, mine or known, last)
    if last is None:
        return Status("none", EXIT_OK, None, None, None)
    return Status(last["state"], last["exit_code"], None, None, last)


def _progress_of_holder(layout: Layout, held_by: dict[str, Any]) -> dict[str, Any] | None:
    """The snapshot of the process that holds the lock, not one that an earlier, killed run has left."""
    progress = read_progress(layout.progress)
    if progress is None or progress.get("process") != held_by.get("process"):
        return None
    return progress


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a run, None where there is none. Raises InputError for what cannot be read as one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise InputError(f"'{path}' may not be read ({error.strerror}); mend its rights.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); run the job again.") from None
    if not isinstance(record, dict) or not {"run", "state", "exit_code", "started"} <= record.keys():
        raise InputError(f"'{path}' is no record of a run; run the job again.")
    return record


def _latest(path: Path) -> dict[str, Any] | None:
    """As `read_record`; what is told of the run is there, and is of its type."""
    record = read_record(path)
    try:
        if record is not None:
            _Record.model_validate(record)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"'{path}' is no record of a run ({place} is not as written); run the job again.") from None
    return record


def _newest_run_without_record(layout: Layout, last: dict[str, Any] | None) -> Run | None:
    """The newest run, where it was killed, or failed, and the disk had no room for its record.

    None where `last`, the last record, is its own, or of one that failed after it.
    """
    if not layout.ledger.exists():
        return None
    with closing(Ledger.read_only(layout.ledger)) as ledger:
        newest = ledger.newest_run()
        if newest is None or newest.state == "finished":
            return None
        # The ledger has its runs in their order, whatever the clock said; one that failed early is not in it.
        earlier = last is None or (last.get("run") != newest.run and ledger.knows_run(str(last.get("run"))))
    killed = newest.state == "running"
    return newest if earlier or last is None or (killed and newest.started >= last["started"]) else None
