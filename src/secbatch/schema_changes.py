"""An input whose columns are not those of the dataset: what is allowed, what is said, what stops the run."""

from collections.abc import Callable

import pyarrow as pa

from secbatch.errors import InputError, JobError
from secbatch.job import Job

WIDER = {
    "int8": ("int16", "int32", "int64", "double"),
    "int16": ("int32", "int64", "double"),
    "int32": ("int64", "double"),
    "uint8": ("int16", "uint16", "int32", "uint32", "int64", "uint64", "double"),
    "uint16": ("int32", "uint32", "int64", "uint64", "double"),
    "uint32": ("int64", "uint64", "double"),
    "float": ("double",),
    "string": ("large_string",),
    "large_string": ("string",),
}


def check_columns(job: Job, before: dict[str, str] | None, schema: pa.Schema, notice: Callable[[str], None]) -> None:
    """`before`: the dataset's input columns and types, None where there is no dataset or nothing is known of it.

    Raises InputError, before any work, for a column that is gone or has become something else.
    """
    if before is None:
        return
    now = {field.name: str(field.type) for field in schema}
    gone = [name for name in before if name not in now]
    if gone and job.output.missing_columns == "stop":
        raise InputError(
            f"Column '{gone[0]}' of the dataset in '{job.output.path}' is not in the input; put it back, or let it go "
            "from the dataset with `--set output.missing_columns=drop`."
        )
    for name in gone:
        notice(f"Column '{name}' is no longer in the input and goes from the dataset.")
    for name in now:
        if name not in before:
            notice(f"Column '{name}' is new; rows of the dataset that are not in this input have no value in it.")
        elif now[name] != before[name]:
            old, new = _plain(before[name]), _plain(now[name])
            if new != old and new not in WIDER.get(old, ()):
                raise InputError(
                    f"Column '{name}' is {now[name]} in the input and {before[name]} in the dataset in "
                    f"'{job.output.path}'; name the type in input.types (CSV, JSONL), write the files with it "
                    "(Parquet), or use another output or `mode: overwrite`."
                )
            notice(f"Column '{name}' is {now[name]} now; it was {before[name]}.")


def check_tasks(job: Job, before: set[str], keep: bool, notice: Callable[[str], None]) -> None:
    """`before`: tasks whose columns the dataset has. Raises JobError where one is not in the job and is to be kept."""
    gone = sorted(before - set(job.tasks))
    if gone and keep:
        raise JobError(
            f"The dataset in '{job.output.path}' has the columns of task '{gone[0]}', which this command would drop; "
            "name all tasks in one command (what is done is not done again), or choose another output."
        )
    for name in gone:
        notice(f"Task '{name}' is no longer in the job; its columns go from the dataset.")


def _plain(kind: str) -> str:
    """The type of a dictionary's values."""
    return kind.split("values=")[1].split(",")[0] if kind.startswith("dictionary<") else kind
