"""`secbatch retry`: the rejected rows again."""

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from secbatch.cli import options
from secbatch.cli.measured import Measured
from secbatch.cli.run import load, run_watched
from secbatch.errors import InputError, cause
from secbatch.run_options import RunOptions


@click.command(short_help="Run the rejected rows of an output again.")
@click.argument("output", metavar="OUT")
@click.option("--job", "job_file", metavar="JOB.yaml", help="The job, instead of the recorded one.")
@options.metrics_file
@options.log_format
def retry(output: str, job_file: str | None, metrics_file: str | None, log_format: str) -> int:
    """Run the rejected rows of the output folder OUT again, with the job that it was last made with.

    Rows that are done stay as they are, and so does what other tasks have done for a rejected one. Files are read
    again, so lines that could not be parsed come in once they are mended. A cause that is still there rejects its row
    again.
    """
    from secbatch.recorded_job import recorded_job
    from secbatch.store.layout import Layout

    with Measured(metrics_file) as measured, ExitStack() as reading:
        if job_file:
            job, limit = reading.enter_context(load(job_file, (), None, output)), None
        else:
            recorded = recorded_job(Layout(Path(output)))
            job, limit = recorded.job, recorded.limit
            if recorded.folder is not None and recorded.folder != Path.cwd():
                _go_to(recorded.folder, measured)
        # Whatever the job does with what is there: a retry adds to it.
        job = job.model_copy(update={"output": job.output.model_copy(update={"mode": "incremental"})})
        return run_watched(job, replace(RunOptions(limit), partial=True, retry=True), log_format, measured)


def _go_to(folder: Path, measured: Measured) -> None:
    """Relative paths of the job start where it was run."""
    measured.stay()
    try:
        os.chdir(folder)
    except (OSError, ValueError) as error:  # the second for what no folder can be called
        reason = error.strerror if isinstance(error, OSError) else cause(error)
        raise InputError(
            f"The job was run in '{folder}', where its paths start, and that folder cannot be entered "
            f"({reason}); name its file with --job."
        ) from None
