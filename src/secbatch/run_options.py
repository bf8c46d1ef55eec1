"""What the caller of one run asks for, besides the job."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from secbatch.errors import JobError


@dataclass(frozen=True)
class RunOptions:
    limit: int | None = None  # rows
    partial: bool = False  # the input is only a part of the job's: nothing counts as removed
    retry: bool = False  # rows that were rejected before are done again
    keep_tasks: bool = False  # stops where the dataset has columns of a task that the job has not, and would lose them
    until: float | None = None  # seconds since the epoch at which the run stops, as if interrupted

    def __post_init__(self) -> None:
        """Raises JobError for a limit that is no number of rows."""
        if self.limit is not None and not (isinstance(self.limit, int) and self.limit >= 1):
            raise JobError(f"limit must be a whole number of rows, 1 or more, or None for all; it is {self.limit!r}.")


def next_time(clock: str, now: datetime) -> float:
    """The next moment at which a clock shows `clock` (HH:MM, local time), in seconds since the epoch.

    Raises JobError for what is no time of day.
    """
    try:
        wanted = datetime.strptime(clock, "%H:%M").time()
    except ValueError:
        raise JobError(f"--until takes a time of day such as 06:00, not '{clock}'.") from None
    moment = now.replace(hour=wanted.hour, minute=wanted.minute, second=0, microsecond=0)
    return (moment if moment > now else moment + timedelta(days=1)).timestamp()
