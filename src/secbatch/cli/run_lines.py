"""How a run ended, as a person wants to read it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from secbatch.cli.live_report import duration
from secbatch.errors import EXIT_REJECTS, counted
from secbatch.store.layout import rejects_beside

if TYPE_CHECKING:
    from secbatch.job import Job
    from secbatch.run_result import RunResult


def run_lines(result: "RunResult", job: "Job", single_file: bool) -> list[tuple[str, str]]:
    """Labels and texts, one a line. `single_file`: the output is one Parquet file, no folder."""
    rate = f" ({result.enriched / result.seconds:,.1f} rows/s)" if result.enriched and result.seconds else ""
    rows = f"{result.read:,} read · {result.enriched:,} enriched · {result.reused:,} reused"
    if result.superseded:
        rows += f" · {result.superseded:,} superseded by a later row with the same id"
    lines = [("Rows", rows)]
    rejected = []
    if result.rejected:
        rejected.append(f"{result.rejected:,} kept with secbatch_status = rejected")
    if result.unparseable:
        beside = f"in {rejects_beside(Path(result.output))}"
        place = beside if single_file else f"under {result.output}/_secbatch/rejects"
        rejected.append(f"{result.unparseable:,} not parseable, {place}")
    if rejected:
        lines.append(("Rejected", " · ".join(rejected)))
    if result.unreadable_files:
        lines.append(("Unreadable", f"{counted(result.unreadable_files, 'file')} could not be read to the end"))
    shown = counted(result.rows_in_dataset, "row")
    output = (
        f"{result.output} · {shown}" if single_file else f"{result.output}/data · {shown} · version {result.version}"
    )
    lines += [
        ("Time", duration(result.seconds) + rate),
        ("Device", ", ".join(filter(None, (result.device, result.precision)))),
        ("Output", output),
    ]
    if result.exit_code == EXIT_REJECTS:
        why = f"rejects are above max_rejects ({job.max_rejects})"
        if result.unreadable_files:
            why = "files could not be read to their end"
        look = f"`secbatch show {shlex.quote(result.output)} --rejected`"
        lines.append(("Attention", f"{why}; exit code {EXIT_REJECTS}. {look} tells which"))
    return lines
