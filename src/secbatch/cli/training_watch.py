"""How a training looks on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secbatch.cli import log
from secbatch.cli.live_report import LiveReport, duration

if TYPE_CHECKING:
    from secbatch.finetuning.progress import Progress


class TrainingWatch(LiveReport):
    """A reporter (see secbatch.finetuning.reporting) that writes to standard error. Use as a context manager."""

    def __init__(self, log_format: str) -> None:
        super().__init__(log_format, "training")
        self._on_dev: str | None = None  # the last epoch's figure

    def progress(self, progress: Progress) -> None:
        on_dev = f" · {self._on_dev}" if self._on_dev else ""
        status = (
            f"epoch {progress.epoch} of {progress.epochs} · loss {progress.loss:.3f}{on_dev} ·"
            f" {progress.tokens_per_second:,.0f} tokens/s · {duration(progress.seconds_left)} left"
        )
        self._show(
            progress.step / progress.steps,
            status,
            step=progress.step,
            steps=progress.steps,
            epoch=progress.epoch,
            loss=round(progress.loss, 5),
            tokens_per_second=round(progress.tokens_per_second, 1),
            seconds_left=round(progress.seconds_left, 1),
        )

    def evaluated(self, entry: dict[str, Any], better: bool, metric: str) -> None:
        self._on_dev = f"dev {metric} {entry['dev'][metric]:.3f}"
        if self._json:
            log.emit("epoch", **entry, best=better)
            return
        figures = " · ".join(f"{name} {value:.4g}" for name, value in entry["dev"].items())
        mark = f" · best {metric} so far" if better else ""
        self._say("epoch", f"Epoch {entry['epoch']}: training loss {entry['train_loss']:.4g} · dev: {figures}{mark}.")

    def summary(self, lines: list[tuple[str, str]], record: dict[str, Any]) -> None:
        self._sum_up(lines, record)
