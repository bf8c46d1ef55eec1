"""What a run did."""

from dataclasses import dataclass, field

from secbatch.errors import EXIT_OK


@dataclass
class RunResult:
    """What a run did. Rows: `read` = parsed rows; once it has finished, each is enriched, reused or superseded."""

    run: str
    output: str
    state: str = "running"  # finished, interrupted or failed
    read: int = 0
    enriched: int = 0
    reused: int = 0
    superseded: int = 0  # a later row has the same id, whether or not models ran for this one
    rejected: int = 0  # parsed, in the dataset with secbatch_status = rejected
    unparseable: int = 0  # pieces of files under rejects/
    unreadable_files: int = 0
    rows_in_dataset: int = 0
    done: dict[str, int] = field(default_factory=dict)  # task -> enriched rows in which it had something to do
    tokens: int = 0
    padding: int = 0
    shards: int = 0
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)  # stage (see secbatch.stages) -> seconds
    version: int = 0
    published: bool = False
    device: str = ""
    precision: str = ""
    precisions: dict[str, str | None] = field(default_factory=dict)  # of each task, once its models are loaded
    notices: list[str] = field(default_factory=list)
    part_files: list[str] = field(default_factory=list)  # of the version, in row order, relative to OUT/data
    exit_code: int = EXIT_OK
    error: str | None = None  # the sentence that ended a run which did not finish
