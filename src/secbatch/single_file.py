"""A run whose output is one Parquet file that appears whole at the end."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from secbatch import run_identity
from secbatch.errors import UnfitOutputError
from secbatch.job import Job
from secbatch.reporting import Reporter
from secbatch.run_date import with_run_date
from secbatch.run_options import RunOptions
from secbatch.run_result import RunResult
from secbatch.runner import run_job
from secbatch.sources.paths import find_files
from secbatch.store.durable_files import write_atomically
from secbatch.store.filesystem import check_output_place, explain, remove_file
from secbatch.store.layout import Layout, rejects_beside
from secbatch.store.parts import write_tables

WORK = ".secbatch"  # ends the name of the folder in which a file is made


def run_into_file(
    job: Job,
    path: Path,
    *,
    options: RunOptions | None = None,
    reporter: Reporter,
    ended: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Runs `job` in a hidden folder beside `path` and writes the rows to `path`; the folder is then removed.

    An interrupted run leaves the folder, and the next goes on from it. Unparseable lines go to
    `<name>.rejects.parquet` beside the file.
    """
    check_output_place(path)
    _check_free(job, Path(with_run_date(str(path), run_identity.new_run_id())))
    work = path.with_name(f".{path.name}{WORK}")
    check_output_place(work)
    output = job.output.model_copy(update={"path": str(work)})
    return run_job(
        job.model_copy(update={"output": output}),
        options=options,
        reporter=reporter,
        ended=ended,
        # Until the folder is gone nobody else may go on from it.
        finished=lambda result: _put_into_file(job, path, result),
    )


def _made_in(work: Path) -> Path:
    """The file that a run makes in this folder: the day in its name is the folder's, whichever run came to its end."""
    return work.with_name(work.name.removeprefix(".").removesuffix(WORK))


def _put_into_file(job: Job, path: Path, result: RunResult) -> None:
    """Makes the dataset of `result` the file, and removes the folder."""
    layout = Layout(Path(result.output))
    file = _made_in(layout.root)
    if file != path:
        path = file
        _check_free(job, path)  # a run of an earlier day has gone on, into the file of that day
    files = [layout.data / file for file in result.part_files]
    _concatenate(files, path)
    # Its own: one that was stopped may have left what it could not parse, which this run has met again.
    rejects = sorted(layout.rejects.glob(f"{result.run}-*.parquet"))
    beside = rejects_beside(path)
    if rejects:
        _concatenate(rejects, beside)
    else:
        beside.unlink(missing_ok=True)  # of an earlier run into the same file
    try:
        shutil.rmtree(layout.root)
    except OSError as error:
        raise explain(error, layout.root) from None
    result.output = str(path)


def _check_free(job: Job, path: Path) -> None:
    """Neither the file nor that of its rejects may take the place of a folder, or of what they are made from."""
    if path.is_dir():
        raise UnfitOutputError(f"Output '{path}' is a folder; give a file name that ends in .parquet, or another name.")
    beside = rejects_beside(path)
    if beside.is_dir():
        raise UnfitOutputError(f"'{beside}', where the rejects of '{path}' go, is a folder; name another file.")
    there = [place for place in (path, beside) if place.exists()]
    for file in find_files(job.input.path, job.input.format).files if there else ():
        if "://" in file.path:
            continue
        for place in there:
            if place.samefile(file.fs_path):
                of_rejects = "" if place == path else f", where the rejects of '{path}' go,"
                raise UnfitOutputError(
                    f"Output '{place}'{of_rejects} is a file of the input, which it would replace; name another file."
                )


def _concatenate(files: list[Path], target: Path) -> None:
    """The rows of `files` in one file, without ever holding more than a row group of them."""
    # A run that was killed may have left it, as another name of one of `files`: it is not to be written to.
    remove_file(target.with_name(f".{target.name}.tmp"))
    if len(files) > 1:
        write_tables(target, pq.read_schema(files[0]), _row_groups(files), "file")
        return

    def link(temporary: Path) -> None:
        temporary.hardlink_to(files[0])

    write_atomically(target, link, "file")  # it is that file: its other names go with the folder
    # Where a run that was killed has given it the name already, both names have stayed: to rename one to the other does
    # nothing.
    remove_file(target.with_name(f".{target.name}.tmp"))


def _row_groups(files: list[Path]) -> Iterator[pa.Table]:
    for file in files:
        with pq.ParquetFile(file) as reader:
            for group in range(reader.num_row_groups):
                yield reader.read_row_group(group)
