"""`secbatch finetune`."""

from typing import TYPE_CHECKING, Any

import click

import secbatch
from secbatch.cli import options
from secbatch.cli.live_report import duration
from secbatch.cli.stopping import StopAsked
from secbatch.cli.terminal import printable, sentence
from secbatch.cli.training_watch import TrainingWatch
from secbatch.errors import counted, shown
from secbatch.working_folder import check_working_folder

if TYPE_CHECKING:
    from secbatch.finetuning.finetune import FinetuneResult
    from secbatch.finetuning.planning import TrainingPlan

SHOWN_LABELS = 12  # of a plan


@click.command(short_help="Train a model on labelled examples.")
@click.argument("job_file", metavar="JOB.yaml")
@options.overrides("hyperparameters.epochs=3")
@click.option("--output", "output_path", metavar="FOLDER", help="Write here instead of the job's output.")
@click.option("--overwrite", is_flag=True, help="Replace a model of another training in the output.")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be trained; write nothing.")
@options.log_format
def finetune(
    job_file: str, overrides: tuple[str, ...], output_path: str | None, overwrite: bool, dry_run: bool, log_format: str
) -> int:
    """Train a model on labelled examples, as JOB.yaml says; a second run goes on, or does nothing."""
    check_working_folder()
    from secbatch.finetune_jobfile import finetune_job_read
    from secbatch.jobfile import override

    replaced = [override("output", output_path)] if output_path else []
    with finetune_job_read(job_file, [*overrides, *replaced]) as job:
        if dry_run:
            from secbatch.finetuning.planning import plan_finetune

            for name, text in _planned(plan_finetune(job, overwrite)):
                click.echo(f"{name:<10}  {printable(text)}")
            return 0
        with TrainingWatch(log_format) as watch, StopAsked() as stop:
            watch.started(job=job.name, version=secbatch.__version__, output=job.output)
            from secbatch.finetuning.finetune import finetune as train

            result = train(job, watch, stop, overwrite)
    watch.summary(_summary(result), _figures(result))
    return 0


def _planned(plan: "TrainingPlan") -> list[tuple[str, str]]:
    lines = [("Notice", sentence(notice)) for notice in plan.notices]
    groups = " · ".join(f"{count:,} {side}" for side, count in plan.groups.items())
    lines.append(("Rows", " · ".join(f"{count:,} {side}" for side, count in plan.rows.items())))
    if any(plan.groups.values()):
        lines.append(("Groups", groups))
    if plan.labels:
        ranked = sorted(plan.labels.items(), key=lambda entry: -entry[1])
        some = ", ".join(f"{shown(label)} {count:,}" for label, count in ranked[:SHOWN_LABELS])
        lines.append(("Labels", f"{len(ranked)}: {some}{', …' if len(ranked) > SHOWN_LABELS else ''}"))
    sequences = f"{counted(plan.sequences, 'sequence')} of at most {plan.max_length}"
    epoch = f"{counted(plan.tokens, 'token')} an epoch in {sequences}"
    return [
        *lines,
        ("Training", f"{epoch}; {counted(plan.steps, 'step')} in {counted(plan.epochs, 'epoch')} at most"),
        ("Model", f"{plan.parameters / 1e6:.1f} M weights, learning rate {plan.learning_rate:g}"),
        ("Device", f"{plan.device}, {plan.precision}"),
    ]


def _summary(result: "FinetuneResult") -> list[tuple[str, str]]:
    record = result.record
    if not result.trained:
        what = f"this training was finished {record['finished']}; data, base and hyperparameters are the same"
        return [("Nothing to do", what), ("Output", str(result.folder)), *_metrics(result)]
    data = record["data"]
    rows = " · ".join(f"{data[side]['rows']:,} {side}" for side in ("train", "dev", "test") if side in data)
    speed = f" ({record['tokens_per_second']:,.0f} tokens/s)" if record["tokens_per_second"] else ""
    best = f"{record['best_epoch']} of {len(record['history'])}, by {record['chosen_by']}"
    return [
        ("Rows", rows),
        ("Best epoch", best),
        *_metrics(result),
        ("Time", duration(record["seconds"]) + speed),
        ("Device", f"{record['device']}, {record['precision']}"),
        ("Output", f"{result.folder} · model card README.md · record training.json"),
    ]


def _metrics(result: "FinetuneResult") -> list[tuple[str, str]]:
    return [
        (side.capitalize(), " · ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        for side, metrics in result.metrics.items()
    ]


def _figures(result: "FinetuneResult") -> dict[str, Any]:
    record = result.record
    keys = ("name", "objective", "fingerprint", "best_epoch", "metrics", "steps", "tokens", "seconds", "weights_hash")
    about = {key: record[key] for key in keys}
    return {**about, "output": str(result.folder), "trained": result.trained, "resumed": result.resumed, "exit_code": 0}
