"""Whether a job can have its output, by what is there: asked before a run, and for a plan."""

import json

from secbatch.errors import UnfitOutputError
from secbatch.job import Job
from secbatch.store.filesystem import check_output_place
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.links import refuse_links
from secbatch.store.versions import check_own


def check_place(layout: Layout) -> None:
    """Raises OutputError for a place where no dataset can be, or where something else is."""
    check_output_place(layout.root)
    check_own(layout)
    refuse_links(layout)


def check_mode(job: Job, layout: Layout, ledger: Ledger, goes_on: bool) -> None:
    """`goes_on`: the run is one that was begun before."""
    if job.output.mode == "fail-if-exists" and ledger.latest_version() and not goes_on:
        raise UnfitOutputError(
            f"Output '{layout.root}' exists already and the job says `mode: fail-if-exists`; "
            "choose another output or mode."
        )


def settings(job: Job) -> dict[str, str]:
    """Row identity and partitions, which the first run on an output fixes."""
    return {
        "id": json.dumps(job.input.id),
        "sentences": json.dumps(job.input.sentences),
        "partition_by": json.dumps(job.output.partition_by),
    }


def check_settings(job: Job, layout: Layout, ledger: Ledger) -> None:
    """Raises UnfitOutputError where the output was made with others."""
    for key, value in settings(job).items():
        fixed = ledger.setting(key)
        if fixed is not None and fixed != value:
            raise UnfitOutputError(
                f"Output '{layout.root}' was made with {key} = {fixed}, the job says {value}; "
                "that cannot change: use another output."
            )
