"""The job file: frozen, strict models. An unknown key is an error that names the nearest known one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from secbatch.errors import JobError
from secbatch.strict import FiniteNumber, Names, Strict, one_or_several
from secbatch.task_specs import Chat, TaskSpec

RUN_DATE = "{run_date}"
TASK_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"


def _count_or_percent(value: Any, about: ValidationInfo) -> str:
    text = str(value).strip()
    number = text.removesuffix("%").strip()
    try:
        amount = float(number) if text.endswith("%") else int(number)
    except ValueError:
        amount = -1
    if isinstance(value, bool) or not amount >= 0 or (text.endswith("%") and amount > 100):
        raise ValueError(f"{about.field_name} must be a count such as 100 or a percentage such as 1%")
    return text


def _allowed(limit: str, rows: int) -> float:
    """A count, or the share of `rows` that a percentage means."""
    return float(limit[:-1]) / 100 * rows if limit.endswith("%") else float(limit)


class Input(Strict):
    """Where rows come from."""

    path: str  # file, glob, folder, or a URI of an object store
    format: Literal["csv", "parquet", "jsonl"] | None = None  # None: by the file's ending
    id: Names = ()  # columns that name a row
    types: Mapping[str, str] = {}  # CSV columns are strings unless named here
    delimiter: str | None = None  # None: found in the header
    encoding: str | None = None  # None: by byte order mark, else UTF-8
    sentences: str | None = None  # document column that is split into sentence rows
    # Seconds; files that changed since are left for the next run.
    settle: FiniteNumber = Field(default=0, ge=0)

    _id = field_validator("id", mode="before")(one_or_several)


class Output(Strict):
    """Where the dataset goes."""

    path: str
    partition_by: Names = ()
    mode: Literal["incremental", "overwrite", "fail-if-exists"] = "incremental"
    removed: Literal["keep", "mark", "drop"] = "keep"  # rows that are no longer in the input
    missing_columns: Literal["stop", "drop"] = "stop"  # columns of the dataset that the input no longer has
    max_removed: str = "40%"  # a count or a percentage of the dataset's rows; above it the run stops

    _partition_by = field_validator("partition_by", mode="before")(one_or_several)
    _max_removed = field_validator("max_removed", mode="before")(_count_or_percent)

    @field_validator("path")
    @classmethod
    def _known_place(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is empty; name a folder")
        unknown = [place for place in re.findall(r"\{ *[A-Za-z_-]+ *(?:[:!.\[][^{}]*)?\}", value) if place != RUN_DATE]
        if unknown:
            raise ValueError(f"{unknown[0]} stands for nothing there; only {RUN_DATE} does, the day of the run")
        if not value.startswith("~"):
            return value
        try:
            return str(Path(value).expanduser())  # as for input.path
        except RuntimeError:
            raise ValueError("it begins with '~' and a name that nobody has here; write the whole path") from None

    @field_validator("partition_by")
    @classmethod
    def _each_column_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        dated = [entry for entry in value if RUN_DATE in entry]
        if len(dated) > 1 or any(not entry.endswith(f"={RUN_DATE}") or entry.count(RUN_DATE) > 1 for entry in dated):
            raise ValueError(f"{RUN_DATE} can stand once, after the name of a column that it becomes: night={RUN_DATE}")
        columns = [entry.removesuffix(f"={RUN_DATE}") for entry in value]
        twice = [column for column in columns if columns.count(column) > 1]
        if twice:
            raise ValueError(f"column '{twice[0]}' stands there twice; a folder can name it once")
        return value

    @property
    def partition_columns(self) -> tuple[str, ...]:
        """The names in `partition_by`."""
        return tuple(entry.removesuffix(f"={RUN_DATE}") for entry in self.partition_by)

    @property
    def run_date_column(self) -> str | None:
        """The partition column that is the day of the run which last enriched a row."""
        return next((entry.removesuffix(f"={RUN_DATE}") for entry in self.partition_by if RUN_DATE in entry), None)

    def removals_allowed(self, rows: int) -> float:
        """How many of the dataset's `rows` one run may drop or mark."""
        return _allowed(self.max_removed, rows)


class Job(Strict):
    """What to do: the whole job file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    input: Input
    tasks: Mapping[Annotated[str, Field(pattern=TASK_NAME)], TaskSpec] = Field(min_length=1)
    output: Output
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_recompute: int | None = Field(default=None, ge=0)  # rows that a changed task may have done again
    max_rejects: str = "1%"  # a count or a percentage of the rows read

    _max_rejects = field_validator("max_rejects", mode="before")(_count_or_percent)

    @property
    def holds_conversations(self) -> bool:
        """Whether a task sees turns before each: conversations are put together then, out of the input's order."""
        return any(isinstance(spec, Chat) and spec.conversation for spec in self.tasks.values())

    def rejects_allowed(self, rows_read: int) -> float:
        """How many rejected rows are still fine, of `rows_read` rows (parsed and unparseable together)."""
        return _allowed(self.max_rejects, rows_read)


def check_job(job: object) -> None:
    """Raises JobError for what a caller from Python gives and is no job: a path, most often."""
    if not isinstance(job, Job):
        raise JobError(
            f"a value of type {type(job).__name__} is no job; secbatch.jobfile.load_job reads one from the file at a"
            " path, and secbatch.job.Job is one."
        )
