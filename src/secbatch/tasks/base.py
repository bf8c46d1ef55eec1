"""What every task is to the worker: declared columns and three stages."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class TaskColumns:
    """What a task adds to a shard of n rows: columns of length n, and rows it could not do, which have nulls there."""

    columns: dict[str, "pa.Array"]  # by full name (the task's name is the prefix), in the order of `fields`
    errors: dict[int, str] = field(default_factory=dict)  # position in the shard -> one sentence
    tokens: int = 0  # real tokens that went through the model
    padding: int = 0  # padded positions that went through it besides


@runtime_checkable
class OnItsWay(Protocol):
    """What `compute` gives where the result is still being made, by a GPU or a server."""

    def land(self) -> Any:
        """Waits for it; from any thread."""
        ...


class Task(Protocol):
    """One enrichment. `encode` runs on a CPU thread, `compute` on the device thread, `finish` on a CPU thread.

    The three are pure functions of the shard: the same rows give the same columns. Null or empty text gives
    nulls without an error.
    """

    name: str
    reads: tuple[str, ...]  # input columns it needs

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know about its model; complete after `load`."""
        ...

    @property
    def fields(self) -> "tuple[pa.Field, ...]":
        """The columns it adds, full names, never of null type. Needs no weights."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of all that decides the result: parameters, model and tokenizer hashes, precision, code."""
        ...

    def load(self) -> None:
        """Brings the weights to the device; called once, before the first `compute`."""
        ...

    def encode(self, table: "pa.Table", ids: "pa.Array", usable: "pa.Array") -> Any:
        """Rows to token ids. `ids`: string row identities; `usable`: bool, False for rows that are rejected."""
        ...

    def compute(self, encoded: Any) -> Any:
        """Token ids to numbers on the device."""
        ...

    def finish(self, computed: Any) -> TaskColumns:
        """Numbers to columns."""
        ...


@runtime_checkable
class WideTask(Protocol):
    """A task whose columns may take much room in each row."""

    @property
    def row_bytes(self) -> int:
        """Bytes that they take in memory, about; 0 where that is not known. Needs no weights."""
        ...


@runtime_checkable
class ConversationTask(Task, Protocol):
    """A task that may ask rows together, as turns of a conversation."""

    @property
    def conversation_column(self) -> str | None:
        """Rows that follow each other with one value in it are answered together, in order; None: each by itself."""
        ...

    def asks(self, table: "pa.Table") -> "np.ndarray":
        """bool [n]: rows with a question."""
        ...

    def encode_after(
        self, table: "pa.Table", ids: "pa.Array", usable: "pa.Array", answered: "np.ndarray", columns: "pa.Table"
    ) -> Any:
        """As `encode`, where earlier turns are answered already: only the other rows come out of `finish`.

        `answered`: int64, the positions of these turns; `columns`: what `finish` gave for them.
        """
        ...


@runtime_checkable
class RememberingTask(Protocol):
    """A task that may compute once what it is given again and again."""

    @property
    def remembers(self) -> bool:
        """Whether rows in which it reads the same are computed once in a run; known after `load`."""
        ...


@runtime_checkable
class SamplingTask(Protocol):
    """A task that may draw what it gives by chance."""

    @property
    def samples(self) -> bool:
        """Whether a row's identity decides its result as well, as the seed of random numbers of its own."""
        ...


@runtime_checkable
class RemoteTask(Task, Protocol):
    """A task that others compute: `compute` is `ask`, and waiting until there may be room for another shard."""

    def ask(self, encoded: Any) -> "Begun":
        """As `compute`, without waiting."""
        ...

    @property
    def asks_at_once(self) -> int:
        """For so many rows others compute at a time."""
        ...

    def abandon(self) -> None:
        """Ends what is on its way: it will raise Interrupted when it is to land. From any thread."""
        ...


class Begun(OnItsWay, Protocol):
    @property
    def begun(self) -> "Event":
        """Set when there may be room for another shard."""
        ...
