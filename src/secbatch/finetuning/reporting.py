"""Who is told how a training goes."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from secbatch.finetuning.progress import Progress


class TrainingReporter(Protocol):
    def notice(self, text: str) -> None:
        """One sentence that a user should know."""

    def progress(self, progress: "Progress") -> None:
        """After a step, now and then."""

    def evaluated(self, entry: dict[str, Any], better: bool, metric: str) -> None:
        """After an epoch: its entry of the history, and whether it is the best so far by `metric`."""


class Silent:
    """Nobody."""

    def notice(self, text: str) -> None:
        return

    def progress(self, progress: "Progress") -> None:
        return

    def evaluated(self, entry: dict[str, Any], better: bool, metric: str) -> None:
        return
