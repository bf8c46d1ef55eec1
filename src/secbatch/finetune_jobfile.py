"""Reads the job file of `secbatch finetune`."""

from collections.abc import Sequence

from secbatch.finetune_job import FinetuneJob
from secbatch.jobfile import read_values, validate_as


def load_finetune_job(path: str, overrides: Sequence[str] = ()) -> FinetuneJob:
    """The job in the file at `path`, with `key.key=value` overrides applied.

    Raises JobError (one sentence with file and line) for what is not such a job.
    """
    values, node = read_values(path, overrides, "name, objective, model, data and output")
    return validate_as(FinetuneJob, values, path, node, overrides)
