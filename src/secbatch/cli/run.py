"""`secbatch run`, `enrich` and `plan`."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import secbatch
from secbatch.cli import options
from secbatch.cli.measured import Measured
from secbatch.cli.plan_lines import plan_lines
from secbatch.cli.run_lines import run_lines
from secbatch.cli.stopping import Interruptible
from secbatch.cli.terminal import printable
from secbatch.cli.watch import Watch
from secbatch.run_options import RunOptions, next_time
from secbatch.thread_limit import check_threads
from secbatch.working_folder import check_working_folder, check_working_folder_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from secbatch.job import Job

OTHER_FILES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".txt", ".gz", ".zst", ".pq"}  # not a folder's


@click.command(short_help="Run a job; a second run goes on where the first stopped.")
@click.argument("job_file", metavar="JOB.yaml")
@options.overrides("tasks.mask.top_k=5")
@click.option("--input", "input_path", metavar="PATH", help="Read this instead of the job's input.path.")
@click.option("--output", "output_path", metavar="FOLDER", help="Write here instead of the job's output.path.")
@options.limit
@click.option("--until", metavar="HH:MM", help="Stop at this time of day, at a checkpoint; a later run goes on.")
@click.option("--dry-run", is_flag=True, help="Check everything and show the plan; write nothing.")
@options.metrics_file
@options.log_format
def run(
    job_file: str,
    overrides: tuple[str, ...],
    input_path: str | None,
    output_path: str | None,
    limit: int | None,
    until: str | None,
    dry_run: bool,
    metrics_file: str | None,
    log_format: str,
) -> int:
    """Run the job in JOB.yaml; a second run goes on where the first stopped, or does nothing."""
    if dry_run:
        Measured(metrics_file)  # refuses what it could not write
        if until:
            next_time(until, datetime.now().astimezone())
        with load(job_file, overrides, input_path, output_path) as job:
            _show_plan(job, limit)
        return 0
    with Measured(metrics_file) as measured, load(job_file, overrides, input_path, output_path) as job:
        stop = next_time(until, datetime.now().astimezone()) if until else None
        return run_watched(job, RunOptions(limit, partial=input_path is not None, until=stop), log_format, measured)


@click.command(short_help="Show what a run would do: rows, tokens, time, what is done.")
@click.argument("job_file", metavar="JOB.yaml")
@options.overrides("tasks.mask.top_k=5")
@options.limit
def plan(job_file: str, overrides: tuple[str, ...], limit: int | None) -> int:
    """Show what a run of JOB.yaml would do: rows, shards, tokens, time, what is done already."""
    with load(job_file, overrides, None, None) as job:
        _show_plan(job, limit)
    return 0


@click.command()
@click.argument("source", metavar="IN")
@click.option("-o", "--output", "output_path", required=True, metavar="OUT", help="A folder, or one .parquet file.")
@click.option("--mask", metavar="COLUMN", help="Predict each <mask> in this column, or in a template with {columns}.")
@click.option("--ask", metavar="COLUMN", help="Answer the question in this column.")
@click.option("--embed", metavar="COLUMN", help="Embed the text in this column.")
@click.option("--classify", metavar="COLUMN", help="Label the text in this column, by --classify-model.")
@click.option("--ner", metavar="COLUMN", help="Find the spans in this column that --ner-model knows.")
@click.option("--mask-model", default=options.MASK_MODEL, show_default=True, help="For --mask and --embed.")
@click.option("--chat-model", default=options.CHAT_MODEL, show_default=True, help="For --ask.")
@click.option("--classify-model", metavar="MODEL", help="For --classify: a model fine-tuned to classify.")
@click.option("--ner-model", metavar="MODEL", help="For --ner: a model fine-tuned to label tokens.")
@click.option("--top-k", type=click.IntRange(1, 1000), default=10, show_default=True, help="Words for each <mask>.")
@click.option("--target", "targets", multiple=True, metavar="WORD", help="Rank only these words (repeatable).")
@click.option("--sentences", metavar="COLUMN", help="Split this document column into sentence rows first.")
@click.option("--id", "id_columns", multiple=True, metavar="COLUMN", help="Column that names a row (repeatable).")
@click.option(
    "--format",
    "format_named",
    type=click.Choice(["csv", "parquet", "jsonl"]),
    help="Of IN; by the ending of its name when not given.",
)
@click.option("--delimiter", metavar="CHARACTER", help="Of a CSV file; found in its header when not given.")
@click.option("--encoding", metavar="NAME", help="Of CSV or JSON Lines: cp1252, utf-16, ...; UTF-8 when not given.")
@click.option("--max-rejects", default="1%", show_default=True, help="Above this count or share the exit code is 3.")
@options.device
@options.precision
@options.limit
@options.metrics_file
@options.log_format
def enrich(
    source: str,
    output_path: str,
    mask: str | None,
    ask: str | None,
    embed: str | None,
    classify: str | None,
    ner: str | None,
    mask_model: str,
    chat_model: str,
    classify_model: str | None,
    ner_model: str | None,
    top_k: int,
    targets: tuple[str, ...],
    sentences: str | None,
    id_columns: tuple[str, ...],
    format_named: str | None,
    delimiter: str | None,
    encoding: str | None,
    max_rejects: str,
    device: str,
    precision: str,
    limit: int | None,
    metrics_file: str | None,
    log_format: str,
) -> int:
    """Enrich one file, glob or folder IN without a job file.

    \b
    secbatch enrich reports.csv -o enriched.parquet --mask sentence --ask question

    The columns that come in begin with mask, answer, vec (of length 1), class and ents.
    """
    from secbatch.jobfile import validate

    tasks: dict[str, Any] = {}
    if mask:
        tasks["mask"] = {"type": "fill-mask", "model": mask_model, "text": mask, "top_k": top_k}
        if targets:
            tasks["mask"]["targets"] = list(targets)
    if embed:
        tasks["vec"] = {"type": "embed", "model": mask_model, "text": embed, "normalize": True}
    if ask:
        tasks["answer"] = {"type": "chat", "model": chat_model, "text": ask}
    tasks |= _fine_tuned("classify", "class", classify, classify_model) | _fine_tuned("ner", "ents", ner, ner_model)
    if not tasks:
        raise click.UsageError(
            "Say what to do with which column: --mask COLUMN, --ask COLUMN, --embed COLUMN, --classify COLUMN or"
            " --ner COLUMN."
        )
    if targets and not mask:
        raise click.UsageError("--target ranks words for --mask; say --mask COLUMN too.")
    single = output_path.lower().endswith(".parquet")
    if not single and Path(output_path).suffix.lower() in OTHER_FILES and not Path(output_path).is_dir():
        raise click.UsageError(f"Results are Parquet; '{output_path}' should be a folder or end in .parquet.")
    values = {
        "name": "enrich",
        "input": {
            "path": source,
            "format": format_named,
            "id": list(id_columns),
            "delimiter": delimiter,
            "encoding": encoding,
            "sentences": sentences,
        },
        "tasks": tasks,
        "output": {"path": output_path},
        "device": device,
        "precision": precision,
        "max_rejects": max_rejects,
    }
    job = validate(values, "command line")
    with Measured(metrics_file) as measured:
        asked = RunOptions(limit, keep_tasks=not single)
        return run_watched(job, asked, log_format, measured, Path(output_path) if single else None)


def _fine_tuned(kind: str, name: str, column: str | None, model: str | None) -> dict[str, Any]:
    """The task `name` of a fine-tuned model; none where it is not asked for. Raises UsageError for half of it."""
    if (column is None) is not (model is None):
        raise click.UsageError(f"--{kind} and --{kind}-model go together: say which column, and by which model.")
    return {name: {"type": kind, "model": model, "text": column}} if column else {}


def load(
    path: str, overrides: tuple[str, ...], input_path: str | None, output_path: str | None
) -> "AbstractContextManager[Job]":
    """The job in the file at `path`, with what the command line replaces; see `job_read`."""
    from secbatch.jobfile import job_read, override

    replaced = [override("input.path", input_path)] if input_path else []
    replaced += [override("output.path", output_path)] if output_path else []
    return job_read(path, [*overrides, *replaced])


def run_watched(
    job: "Job", asked: RunOptions, log_format: str, measured: Measured, single_file: Path | None = None
) -> int:
    """Runs `job`, tells how it goes and returns its exit code."""
    measured.name = job.name
    with Watch(log_format) as watch, Interruptible():
        watch.started(job=job.name, version=secbatch.__version__, output=str(single_file or job.output.path))
        check_working_folder()  # before the imports, which need one, and start threads
        check_working_folder_name()
        check_threads()
        # Imported in here so that Ctrl-C during the slow imports is an interrupt like any other.
        from secbatch.runner import run_job
        from secbatch.single_file import run_into_file

        if single_file:
            result = run_into_file(job, single_file, options=asked, reporter=watch, ended=measured.take)
        else:
            result = run_job(job, options=asked, reporter=watch, ended=measured.take)
        measured.take(result)
    from dataclasses import asdict

    record = {key: value for key, value in asdict(result).items() if key != "part_files"}
    watch.summary(run_lines(result, job, single_file is not None), record)
    return result.exit_code


def _show_plan(job: "Job", limit: int | None) -> None:
    check_working_folder()
    check_working_folder_name()
    check_threads()
    from secbatch.planning import plan_job

    with Interruptible("Interrupted"):  # it keeps nothing that a second one could go on from
        planned = plan_job(job, limit=limit)
    for name, text in plan_lines(planned):
        click.echo(f"{name:<10}  {printable(text)}")
