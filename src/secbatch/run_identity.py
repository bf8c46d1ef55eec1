"""What tells one run from another: its id, and the job that it is a run of."""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from typing import Any

from secbatch.job import Job
from secbatch.redaction import redacted_values
from secbatch.run_options import RunOptions


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """Names sort by time, also those of two runs in one second."""
    moment = datetime.now(UTC)
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z-{secrets.token_hex(3)}"


def described(job: Job, options: RunOptions) -> str:
    """What tells one job from another in the ledger; a secret counts by its hash.

    Its keys stand as the job has them: a retry takes the job from here, and tasks in another order would be another
    dataset. `store.ledger.same_job` compares two.
    """
    values: dict[str, Any] = {"job": job.model_dump(mode="json"), "limit": options.limit}
    if options.retry:
        values["retry"] = True
    shown = redacted_values(values)
    if shown != json.loads(json.dumps(values)):
        shown["digest"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    return json.dumps(shown)
