"""How a training looks on the terminal: a bar where a person watches, plain lines or JSON elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from secbatch.cli import log
from secbatch.cli.terminal import printable, sentence
from secbatch.cli.watch import LINE_SECONDS, duration

if TYPE_CHECKING:
    from secbatch.finetuning.progress import Progress


class TrainingWatch:
    """A reporter (see secbatch.finetuning.reporting) that writes to standard error. Use as a context manager."""

    def __init__(self, log_format: str) -> None:
        self._json = log_format == "json"
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.monotonic()
        self._on_dev: str | None = None  # the last epoch's figure
        if not self._json and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> TrainingWatch:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("training", total=1.0, status="starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def started(self, **about: Any) -> None:
        """Tells machines which training this is; a person knows."""
        if self._json:
            log.emit("start", **about)

    def notice(self, text: str) -> None:
        self._say("notice", sentence(text))

    def progress(self, progress: Progress) -> None:
        fraction = progress.step / progress.steps
        on_dev = f" · {self._on_dev}" if self._on_dev else ""
        status = (
            f"epoch {progress.epoch} of {progress.epochs} · loss {progress.loss:.3f}{on_dev} ·"
            f" {progress.tokens_per_second:,.0f} tokens/s · {duration(progress.seconds_left)} left"
        )
        if self._bar:
            self._bar.update(self._task, completed=fraction, status=status)
            return
        now = time.monotonic()
        if now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        if self._json:
            log.emit(
                "progress",
                step=progress.step,
                steps=progress.steps,
                epoch=progress.epoch,
                loss=round(progress.loss, 5),
                tokens_per_second=round(progress.tokens_per_second, 1),
                seconds_left=round(progress.seconds_left, 1),
            )
        else:
            print(f"{fraction:4.0%}  {status}", file=sys.stderr, flush=True)

    def evaluated(self, entry: dict[str, Any], better: bool, metric: str) -> None:
        self._on_dev = f"dev {metric} {entry['dev'][metric]:.3f}"
        if self._json:
            log.emit("epoch", **entry, best=better)
            return
        figures = " · ".join(f"{name} {value:.4g}" for name, value in entry["dev"].items())
        mark = f" · best {metric} so far" if better else ""
        self._say("epoch", f"Epoch {entry['epoch']}: training loss {entry['train_loss']:.4g} · dev: {figures}{mark}.")

    def summary(self, lines: list[tuple[str, str]], record: dict[str, Any]) -> None:
        if self._json:
            log.emit("summary", **record)
            return
        width = max(len(name) for name, _ in lines)
        for name, text in lines:
            print(f"{name:<{width}}  {printable(text)}", file=sys.stderr, flush=True)

    def _say(self, kind: str, text: str) -> None:
        if self._json:
            log.emit(kind, text=text)
        elif self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
