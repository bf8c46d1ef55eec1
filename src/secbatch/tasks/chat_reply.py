"""What comes back for a question, whoever answers it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from secbatch.tasks.chat_history import Turn


@dataclass(frozen=True)
class Reply:
    """The answer to one question, or why there is none."""

    text: str | None
    tokens: int | None  # new tokens before the first end token; None where an endpoint does not count them
    truncated: bool  # history or question did not fit
    kept: int  # newest turns that the model saw, the question included
    error: str | None = None


class Renders(Protocol):
    """A model at hand or an endpoint. `render` prepares conversations on the CPU."""

    @property
    def notices(self) -> tuple[str, ...]: ...

    @property
    def remembers(self) -> bool: ...  # whether equal questions are asked once in a run

    @property
    def samples(self) -> bool: ...  # whether answers are drawn by chance, each with its row's own random numbers

    def fingerprint(self) -> str: ...

    def load(self) -> None: ...

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Any]: ...


class Answerer(Renders, Protocol):
    """A model at hand."""

    tokens: int  # positions worked on so far
    padding: int

    def reply(self, rendered: Any, rows: Sequence[str]) -> list[Reply]:
        """Answers to what `render` gave; `rows` names the row of each."""
        ...


def continued(asked: Sequence[Turn], reply: Reply) -> list[Turn]:
    """The turns that later questions see: those that the model saw, and this one if it was answered."""
    seen = list(asked[len(asked) - reply.kept : -1]) if reply.kept else []
    return seen if reply.text is None else [*seen, replace(asked[-1], answer=reply.text)]
