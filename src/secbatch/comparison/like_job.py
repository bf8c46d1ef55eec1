"""A job's task, to be measured as the job has it."""

from typing import Any

from secbatch.errors import JobError, listed, nearest
from secbatch.jobfile import load_job

# What an evaluation says itself: the model, and where texts come from.
_OWN = ("type", "model", "revision", "text", "question", "context")


def settings_like(place: str, kind: str) -> dict[str, Any]:
    """The settings of a task; `place` is JOB.yaml:TASK, `kind` the type that the task must have.

    Raises JobError for a job that cannot be read, and for a task that is not there or of another type.
    """
    path, colon, name = place.rpartition(":")
    if not colon or not path or not name:
        raise JobError(f"--like names a task of a job file, such as jobs/classify.yaml:topic; '{place}' does not")
    job = load_job(path)
    if name not in job.tasks:
        names = list(job.tasks)
        raise JobError(f"--like: {path} has no task '{name}'{nearest(name, names)}; it has {listed(names)}")
    spec = job.tasks[name]
    if spec.type != kind:
        raise JobError(f"--like: task '{name}' of {path} is of type {spec.type}; this objective needs type: {kind}")
    return {key: value for key, value in spec.model_dump().items() if key not in _OWN}
