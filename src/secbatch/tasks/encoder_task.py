"""Tasks that look at an encoder's hidden states: those of one model share its forwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from secbatch.tasks.base import RemoteTask

if TYPE_CHECKING:  # a job without such a task need not wait for the encoders to be imported
    from secbatch.models.batch_runner import BatchReport
    from secbatch.models.requests import Request
    from secbatch.models.shared_encoder import SharedEncoder
    from secbatch.tasks.base import Task
    from secbatch.tasks.repeats import Recalled, Repeats

Computed = TypeVar("Computed", covariant=True)


@dataclass(frozen=True)
class Prepared(Generic[Computed]):
    """What a task asks of the encoder, and what it has when that is done."""

    request: "Request"
    collect: "Callable[[BatchReport], Computed]"


@dataclass(frozen=True)
class OnDevice(Generic[Computed]):
    """What a task will have once a GPU is through with its batches."""

    report: "BatchReport"
    collect: "Callable[[BatchReport], Computed]"

    def land(self) -> Computed:
        """Waits for it; from any thread."""
        self.report.land()
        return self.collect(self.report)


@runtime_checkable
class EncoderTask(Protocol):
    """A task (see `Task`) whose device stage is a request to a shared encoder."""

    encoder: "SharedEncoder"
    repeats: "Repeats"

    def encoded(self, recalled: "Recalled") -> Any:
        """What `prepare` takes, with `recalled` as its attribute: texts of a shard, tokenised."""
        ...

    def prepare(self, encoded: Any) -> Prepared[Any]: ...


def precision_of(task: "Task", asked: str) -> str | None:
    """The number format that a task is computed in, `asked` where nothing stands against it.

    None where others compute it, or nothing is known yet.
    """
    if isinstance(task, EncoderTask):
        return task.encoder.precision
    return None if isinstance(task, RemoteTask) else asked


def compute_alone(task: Any, encoded: Any) -> Any:
    """The device stage of one task by itself."""
    prepared = _prepared(task, encoded)
    (report,) = task.encoder.run([prepared.request])
    return prepared.collect(report)


def compute_together(tasks: Mapping[str, EncoderTask], encoded: Mapping[str, Any]) -> dict[str, Any]:
    """The device stage of tasks whose encoders have one root, by name; from a GPU, each result is `OnDevice`."""
    prepared = {name: _prepared(task, encoded[name]) for name, task in tasks.items()}
    owners = [task.encoder for task in tasks.values()]
    reports = owners[0].root.launch([one.request for one in prepared.values()], owners)
    return {
        name: OnDevice(report, one.collect) if report.flights else one.collect(report)
        for (name, one), report in zip(prepared.items(), reports, strict=True)
    }


def _prepared(task: EncoderTask, encoded: Any) -> Prepared[Any]:
    """`prepare`, without the texts whose results became known since they were encoded.

    On a GPU nothing but its own work may hold up the device's thread, and shards take so little time there that only
    neighbours' repeats are missed.
    """
    if task.encoder.compute.device == "cpu":
        from secbatch.tasks.repeats import recall_again

        left = recall_again(encoded.recalled, task.repeats)
        if left is not encoded.recalled:
            encoded = task.encoded(left)
    return task.prepare(encoded)
