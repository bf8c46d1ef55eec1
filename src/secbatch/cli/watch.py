"""How a run looks on the terminal."""

import time
from typing import Any

from secbatch.cli.live_report import LiveReport, duration
from secbatch.errors import counted
from secbatch.time_left import TimeLeft


class Watch(LiveReport):
    """A reporter (see secbatch.reporting) that writes to standard error. Use as a context manager."""

    def __init__(self, log_format: str) -> None:
        super().__init__(log_format, "enriching")
        self._begin = time.monotonic()
        self._left = TimeLeft(self._begin)

    def progress(self, rows: int, rejected: int, fraction: float) -> None:
        elapsed = time.monotonic() - self._begin
        rate = rows / elapsed if elapsed else 0.0
        left = self._left.seconds(time.monotonic(), fraction)
        status = counted(rows, "row")
        if rows:  # they are done when their shard is: before the first one there is no speed
            status += f" · {rate:,.{0 if rate >= 10 else 1}f} rows/s"
        if left is not None:
            status += f" · {duration(left)} left"
        if rejected:
            status += f" · {rejected:,} rejected"
        facts = {"fraction": round(fraction, 4), "rows_per_second": round(rate, 1)}
        self._show(fraction, status, rows=rows, rejected=rejected, **facts)

    def summary(self, lines: list[tuple[str, str]], record: dict[str, Any]) -> None:
        self._sum_up(lines, record, "warning" if record.get("exit_code") else "info")
