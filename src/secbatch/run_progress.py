"""How far a run in progress has come."""

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from secbatch.run_identity import now
from secbatch.run_record import rate
from secbatch.run_result import RunResult
from secbatch.sources.open import Source
from secbatch.stages import StageClock
from secbatch.store.rejects import RejectWriter
from secbatch.time_left import TimeLeft
from secbatch.underway import Underway


@dataclass(frozen=True)
class RunProgress:
    """What stands in the run's counts, source and clock at this moment."""

    name: str  # of the job
    limit: int | None  # rows
    started: str  # ISO 8601, UTC
    begin: float  # the same moment, monotonic
    result: RunResult
    source: Source
    rejects: RejectWriter
    clock: StageClock
    left: TimeLeft
    underway: Underway

    def fraction(self) -> float:
        """Of the input that is done, 0 to 1."""
        return self._fraction(self.result.enriched + self.result.reused)

    def reached(self) -> float:
        """As `fraction`, with what is done of shards that are underway."""
        return self._fraction(self.result.enriched + self.result.reused + self.underway.rows())

    def _fraction(self, done: float) -> float:
        source, superseded = self.source, self.result.superseded
        share = source.bytes_given / source.bytes_total if source.bytes_total else 1.0
        # Where conversations are grouped, all rows are given out before the first one is done.
        share *= done / max(max(self.result.read, source.rows_given) - superseded, 1)
        if self.limit:  # there may be fewer rows; and none beyond what a float can hold
            share = max(share, done / max(min(self.limit, sys.maxsize) - superseded, 1))
        return min(share, 1.0)

    def snapshot(self) -> dict[str, Any]:
        """What `secbatch status` shows of this run while it goes on."""
        moment = time.monotonic()
        seconds = moment - self.begin
        fraction = self.reached()
        left = self.left.seconds(moment, fraction)
        result = self.result
        return {
            "run": self.result.run,
            "name": self.name,
            "process": os.getpid(),
            "started": self.started,
            "written": now(),
            "doing": self.clock.doing(),
            "read": result.read,
            "enriched": result.enriched,
            "reused": result.reused,
            "rejected": result.rejected,
            "unparseable": self.rejects.count,
            "fraction": round(fraction, 4),
            "rows_per_second": rate(result.enriched, seconds),
            "seconds": round(seconds, 1),
            "seconds_left": None if left is None else round(left, 1),
        }
