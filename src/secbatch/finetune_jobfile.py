"""Reads the job file of `secbatch finetune`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from secbatch.finetune_job import FinetuneJob
from secbatch.job_sentences import keys_placed
from secbatch.jobfile import file_name, read_values, validate_as


def load_finetune_job(path: str | Path, overrides: Sequence[str] = ()) -> FinetuneJob:
    """The job in the file at `path`, with `key.key=value` overrides applied.

    Raises JobError (one sentence with file and line) for what is not such a job.
    """
    with finetune_job_read(file_name(path), overrides) as job:
        return job


@contextmanager
def finetune_job_read(path: str, overrides: Sequence[str] = ()) -> Iterator[FinetuneJob]:
    """As `load_finetune_job`; what turns out to be wrong with a key of it inside is said with the key's line."""
    values, node = read_values(path, overrides, "name, objective, model, data and output")
    job = validate_as(FinetuneJob, values, path, node, overrides)
    with keys_placed(path, node, overrides):
        yield job
