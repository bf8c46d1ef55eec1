"""The record of a run: what runs/<run>.json says. Its keys are described in docs/operations.md."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secbatch.redaction import redacted_values

if TYPE_CHECKING:
    from secbatch.job import Job
    from secbatch.run_result import RunResult

RUN_FILE_VERSION = 1  # raised when a key is taken away or changes its meaning; new keys do not raise it

COUNTS = (
    "read",
    "enriched",
    "reused",
    "superseded",
    "rejected",
    "unparseable",
    "unreadable_files",
    "rows_in_dataset",
    "shards",
    "tokens",
    "padding",
)


def run_record(
    result: "RunResult",
    job: "Job",
    *,
    started: str,
    finished: str,
    limit: int | None,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """JSON-like record of a run. `provenance`: models and versions, as in the parts' footers. No secrets in it."""
    record = {
        "schema": RUN_FILE_VERSION,
        "run": result.run,
        "name": job.name,
        "state": result.state,
        "exit_code": result.exit_code,
        "error": result.error,
        "started": started,
        "finished": finished,
        "seconds": round(result.seconds, 3),
        "counts": {name: getattr(result, name) for name in COUNTS} | {"done": result.done},
        "timings": {stage: round(seconds, 3) for stage, seconds in result.timings.items()},
        "rows_per_second": rate(result.enriched, result.seconds),
        "output": {"path": result.output, "version": result.version, "published": result.published},
        "device": result.device,
        "precision": result.precision,
        **provenance,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "folder": str(Path.cwd()),
        "notices": result.notices,
        "limit": limit,
        "job": job.model_dump(mode="json"),
    }
    redacted: dict[str, Any] = redacted_values(record)
    return redacted


def rate(rows: int, seconds: float) -> float:
    """Rows a second; 0 where there is nothing to measure."""
    return round(rows / seconds, 2) if seconds else 0.0
