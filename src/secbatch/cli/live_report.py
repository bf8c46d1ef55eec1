"""Work as it looks on the terminal: a bar where a person watches, plain lines or JSON elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from secbatch.cli import log
from secbatch.cli.terminal import printable, sentence

LINE_SECONDS = 10.0  # between plain progress lines


class LiveReport:
    """What the reporters of runs and of trainings share. Writes to standard error. Use as a context manager."""

    def __init__(self, log_format: str, doing: str) -> None:
        """`log_format`: text or json. `doing`: the word in front of the bar."""
        self._json, self._doing = log_format == "json", doing
        self._bar: Any = None
        self._task: Any = None
        self._last_line, self._last_fraction = time.monotonic(), 0.0
        if not self._json and sys.stderr.isatty():
            from rich.console import Console

            from secbatch.cli.progress_bar import ProgressBar

            console = Console(stderr=True)
            # It cannot move the cursor; or it has no UTF-8, and a dot, written as \xb7, breaks the line of the bar.
            if console.is_dumb_terminal or console.options.ascii_only:
                return
            self._bar = ProgressBar(console)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._doing, total=1.0, status="starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def started(self, **about: Any) -> None:
        """Tells machines what this is; a person knows."""
        if self._json:
            log.emit("start", **about)

    def notice(self, text: str) -> None:
        self._say("notice", sentence(text))

    def _show(self, fraction: float, status: str, /, **facts: Any) -> None:
        """How far it is: `status` for people, `facts` for machines; away from a terminal only now and then."""
        if self._bar:
            self._bar.update(self._task, completed=fraction, status=status)
            return
        now = time.monotonic()
        if now - self._last_line < LINE_SECONDS or fraction == self._last_fraction:  # a log has no use for it twice
            return
        self._last_line, self._last_fraction = now, fraction
        if self._json:
            log.emit("progress", **facts)
        else:
            print(f"{fraction:4.0%}  {status}", file=sys.stderr, flush=True)

    def _sum_up(self, lines: list[tuple[str, str]], record: dict[str, Any], level: str = "info") -> None:
        if self._json:
            log.emit("summary", level, **record)
            return
        width = max(len(name) for name, _ in lines)
        for name, text in lines:
            print(f"{name:<{width}}  {printable(text)}", file=sys.stderr, flush=True)

    def _say(self, kind: str, text: str) -> None:
        if self._json:
            log.emit(kind, text=text)
        elif self._bar:
            self._bar.console.print(text, markup=False, emoji=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """1.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
