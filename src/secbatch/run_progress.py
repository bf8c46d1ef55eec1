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
        if self.limit:
            return min(done / min(self.limit, sys.maxsize), 1.0)  # none beyond what a float can hold
        source = self.source
        share = source.bytes_given / source.bytes_total if source.bytes_total else 1.0
        # Where conversations are grouped, all rows are given out before the first one is done.
        return min(share * done / max(self.result.read, source.rows_given, 1), 1.0)

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
