"""`secbatch status`: the run in progress, or how the last one ended."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secbatch.cli import options
from secbatch.cli.live_report import duration
from secbatch.cli.terminal import printable
from secbatch.errors import counted

if TYPE_CHECKING:
    from secbatch.status import Status


@click.command(short_help="Tell how far a run is, or how the last one ended.")
@click.argument("output", metavar="OUT")
@options.as_json
def status(output: str, as_json: bool) -> int:
    """Tell what goes on in the output folder OUT: the run in progress, or how the last one ended.

    The exit code is 75 while a run is in progress, otherwise that of the last run; 1 also where it was killed, 2 also
    where OUT is no output.
    """
    from secbatch.status import read_status
    from secbatch.store.layout import Layout

    found = read_status(Layout(Path(output)))
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        for name, text in _lines(found):
            click.echo(f"{name:<8}  {printable(text)}")
    return found.exit_code


def _lines(found: "Status") -> list[tuple[str, str]]:
    if found.state == "running":
        return [("State", _held(found.holder or {})), *_progress(found.progress)]
    if found.state == "died":
        killed = "died: its process is gone, and finished work is kept; run the job again to go on"
        progress = found.progress or {}
        return [("State", killed), *_progress(progress if "fraction" in progress else None), *_run(progress)]
    if found.progress is not None:
        return [("State", f"{found.state}; its record could not be written, its log says why"), *_run(found.progress)]
    if found.last is None:
        return [("State", "no run has left a record")]
    return _ended(found.last)


def _held(holder: dict[str, Any]) -> str:
    if not holder:
        return "running; it has just started"
    held = f"process {holder.get('process')} on {holder.get('host')} since {holder.get('since')}"
    if holder.get("suspended"):
        return f"running, but suspended: {held}; `kill -CONT {holder['process']}` lets it go on"
    return f"running: {held}"


def _run(progress: dict[str, Any]) -> list[tuple[str, str]]:
    return [("Run", f"{progress['run']}, started {progress['started']}")] if "run" in progress else []


def _progress(progress: dict[str, Any] | None) -> list[tuple[str, str]]:
    if progress is None:
        return [("Doing", "looking at models and input")]
    done = progress["enriched"] + progress["reused"]
    text = f"{progress['fraction']:.0%} · {counted(done, 'row')}, {progress['reused']:,} of them reused"
    text += f" · {progress['rows_per_second']:,.1f} rows/s"
    if progress["seconds_left"] is not None:
        text += f" · {duration(progress['seconds_left'])} left"
    lines = [("Done", text)]
    rejected = progress["rejected"] + progress["unparseable"]
    if rejected:
        lines.append(("Rejected", f"{rejected:,}"))
    doing = ", ".join(progress["doing"]) or "waiting"
    return [*lines, ("Doing", f"{doing} · {duration(progress['seconds'])} so far, as of {progress['written']}")]


def _ended(last: dict[str, Any]) -> list[tuple[str, str]]:
    counts = last["counts"]
    rows = " · ".join(f"{counts[key]:,} {key}" for key in ("read", "enriched", "reused", "rejected", "unparseable"))
    lines = [
        ("State", f"{last['state']}, exit code {last['exit_code']}"),
        ("Run", f"{last['run']}, ended {last['finished']} after {duration(last['seconds'])}"),
        ("Rows", rows),
        ("Output", f"version {last['output']['version']}, {counted(counts['rows_in_dataset'], 'row')}"),
    ]
    return [*lines, ("Error", last["error"])] if last["error"] else lines
