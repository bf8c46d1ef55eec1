"""A run's figures as a Prometheus textfile, for the textfile collector of node_exporter."""

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import secbatch
from secbatch.errors import EXIT_CODES, EXIT_OK, JobError, OutputError
from secbatch.extras import check_extra

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from secbatch.run_result import RunResult

STATES = ("read", "enriched", "reused", "superseded", "rejected", "unparseable")
MOST_BYTES = 1 << 20  # of a file that a run has written, there are a few thousand


def check_metrics_file(path: Path) -> None:
    """Refuses, before a run, what would fail after it (the extra is not installed, there is no such folder), and a file
    of something else, which would be replaced."""
    check_extra("--metrics-file", ["prometheus_client"], "metrics")
    if not path.parent.is_dir() or path.is_dir():
        raise JobError(f"--metrics-file '{path}': name a file in a folder that exists.")
    if not os.access(path.absolute().parent, os.W_OK):  # it is written beside, and renamed
        raise OutputError(
            f"--metrics-file '{path}' may not be written; mend the folder's rights, or name another file."
        )
    if path.exists() and not path.is_file():  # the end of a device, or of a pipe, would be waited for
        raise JobError(f"--metrics-file '{path}' is a device or a pipe; name a file, which each run replaces.")
    if path.suffix != ".prom" and _holds_something_else(path):  # under that ending a damaged one is written anew
        raise JobError(
            f"--metrics-file '{path}' holds something else, which would be replaced; name a file for the metrics alone."
        )


def write_metrics(path: Path, name: str | None, result: "RunResult | None", exit_code: int, seconds: float) -> None:
    """Writes the run's metrics to `path`, whole or not at all.

    `name`: the job's; None when the job could not be read, then that of the file's last run. `result`: None when
    the run ended before it had one. Counters and the time of the last success go on from what `path` holds, so that
    a failed night neither resets nor hides them. Raises OutputError when the file cannot be written.
    """
    from prometheus_client import CollectorRegistry, write_to_textfile

    before = _samples(path)
    name = name or next((labels["job_name"] for _, labels, _ in before if "job_name" in labels), "unknown")
    mine = [(metric, labels, value) for metric, labels, value in before if labels.get("job_name") == name]
    registry = CollectorRegistry()
    _fill(registry, name, mine, result, exit_code, seconds)
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        mend = "; mend the folder's rights, or name another file" if isinstance(error, PermissionError) else ""
        raise OutputError(f"Metrics '{path}' cannot be written: {error.strerror or error}{mend}.") from None


def _fill(
    registry: "CollectorRegistry",
    name: str,
    before: list[tuple[str, dict[str, str], float]],
    result: "RunResult | None",
    exit_code: int,
    seconds: float,
) -> None:
    from prometheus_client import Counter, Gauge

    def counter(metric: str, text: str, label: str, added: dict[str, float]) -> None:
        made = Counter(metric, text, ["job_name", label], registry=registry)
        total = dict(added)
        for known, labels, value in before:
            if known == f"{metric}_total" and label in labels and value >= 0:  # others are not of a run
                total[labels[label]] = total.get(labels[label], 0.0) + value
        for key, value in total.items():
            made.labels(name, key).inc(value)

    def gauge(metric: str, text: str, value: float | None) -> None:
        if value is not None:
            Gauge(metric, text, ["job_name"], registry=registry).labels(name).set(value)

    def last(metric: str) -> float | None:
        return next((value for known, _, value in before if known == metric), None)

    now = time.time()
    counts = {state: float(getattr(result, state)) for state in STATES} if result else dict.fromkeys(STATES, 0.0)
    counter("secbatch_rows", "Rows of all runs, by what became of them.", "state", counts)
    ended = dict.fromkeys(map(str, EXIT_CODES), 0.0)  # `increase` does not see a series that begins with its first 1
    counter("secbatch_runs", "Runs, by exit code.", "exit_code", {**ended, str(exit_code): 1.0})
    by_state = Gauge("secbatch_last_run_rows", "Rows of the last run.", ["job_name", "state"], registry=registry)
    for state, rows in counts.items():
        by_state.labels(name, state).set(rows)
    stages = Gauge(
        "secbatch_stage_duration_seconds",
        "Seconds of each stage of the last run; stages overlap.",
        ["job_name", "stage"],
        registry=registry,
    )
    for stage, spent in (result.timings if result else {}).items():
        stages.labels(name, stage).set(round(spent, 3))
    gauge("secbatch_run_duration_seconds", "Duration of the last run.", round(seconds, 3))
    gauge("secbatch_last_run_exit_code", "Exit code of the last run: 0 is a success.", exit_code)
    gauge("secbatch_last_run_timestamp_seconds", "When the last run ended.", round(now, 3))
    success = round(now, 3) if exit_code == EXIT_OK else last("secbatch_last_success_timestamp_seconds")
    gauge("secbatch_last_success_timestamp_seconds", "When a run last ended with exit code 0.", success)
    known = result is not None and result.version > 0
    rows_shown = result.rows_in_dataset if result and known else last("secbatch_dataset_rows")
    gauge("secbatch_dataset_rows", "Rows that readers of the output see.", rows_shown)
    version = result.version if result and known else last("secbatch_dataset_version")
    gauge("secbatch_dataset_version", "Version of the output that readers see.", version)
    info: Any = Gauge("secbatch_build_info", "Always 1; the labels tell.", ["version"], registry=registry)
    info.labels(secbatch.__version__).set(1)


def _holds_something_else(path: Path) -> bool:
    """Whether nothing of what is there is a metric of secbatch."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES)
    except OSError:
        return False
    return bool(content.strip()) and not re.search(rb"^(# HELP )?secbatch_", content, re.MULTILINE)


def _samples(path: Path) -> list[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of what an earlier run has written; nothing where the file is not there or damaged."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        text = path.read_text(encoding="utf-8")
        return [(s.name, s.labels, s.value) for family in text_string_to_metric_families(text) for s in family.samples]
    except (OSError, ValueError):
        return []
