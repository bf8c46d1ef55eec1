"""`{run_date}`: the day (UTC) on which a run started, in the output's path and as a partition; kept on resume."""

import glob
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import OutputError
from secbatch.job import RUN_DATE, Job
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger


def with_run_date(text: str, run: str) -> str:
    """`text` with the day on which `run`, a run's id, was started."""
    return text.replace(RUN_DATE, f"{run[:4]}-{run[4:6]}-{run[6:8]}")


def run_dates(runs: pa.Array) -> pa.Array:
    """date32 [n]: the days on which these runs (ids, string [n]) were started."""
    days = [pc.utf8_slice_codeunits(runs, start, stop) for start, stop in ((0, 4), (4, 6), (6, 8))]
    return pc.binary_join_element_wise(*days, "-").cast(pa.date32())


def pinned(job: Job, run: str, described: Callable[[Job], str]) -> tuple[Job, str | None]:
    """`job` with a day in its output's path: that of the new run `run`, or of the newest one, where it has to go on.

    `described(job)`: how the ledger names a job. The second is what is to be said, None where there is nothing.
    """
    template = job.output.path
    if RUN_DATE not in template:
        return job, None
    today = with_run_date(RUN_DATE, run)
    newest = max((day for day in _days(template) if day <= today), default=today)
    earlier = _on(job, newest)
    if newest != today and _unfinished(Layout(Path(earlier.output.path)), described(earlier)):
        return earlier, f"The run of {newest} did not finish: it goes on, into '{earlier.output.path}'."
    return _on(job, today), None


def _on(job: Job, day: str) -> Job:
    output = job.output.model_copy(update={"path": job.output.path.replace(RUN_DATE, day)})
    return job.model_copy(update={"output": output})


def _days(template: str) -> list[str]:
    """Days for which there is an output."""
    pieces = template.split(RUN_DATE)
    pattern = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]".join(glob.escape(piece) for piece in pieces)
    shape = re.compile(r"(\d{4}-\d\d-\d\d)".join(re.escape(piece) for piece in pieces))
    found = (shape.fullmatch(path) for path in glob.glob(pattern))  # noqa: PTH207  (the pattern may be absolute)
    return [match[1] for match in found if match and len(set(match.groups())) == 1]


def _unfinished(layout: Layout, described: str) -> bool:
    if not layout.ledger.exists():
        return False
    try:
        with closing(Ledger.read_only(layout.ledger)) as ledger:
            return ledger.unfinished_run(described) is not None
    except OutputError:  # damaged: nobody knows of a run to go on with
        return False
