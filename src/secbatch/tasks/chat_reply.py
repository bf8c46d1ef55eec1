"""What comes back for a question, whoever answers it."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from secbatch.tasks.chat_history import Turn

# Marks that turn the direction of text around and so can disguise what stands in a terminal or a report.
# https://www.unicode.org/reports/tr9/
_DIRECTION_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Reply:
    """The answer to one question, or why there is none."""

    text: str | None
    tokens: int | None  # new tokens before the first end token; None where an endpoint does not count them
    truncated: bool  # history or question did not fit
    kept: int  # newest turns that the model saw, the question included
    error: str | None = None


class Answerer(Protocol):
    """A model at hand or an endpoint. `render` prepares conversations on the CPU, `reply` answers them."""

    tokens: int  # positions worked on so far
    padding: int

    @property
    def notices(self) -> tuple[str, ...]: ...

    def fingerprint(self) -> str: ...

    def load(self) -> None: ...

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Any]: ...

    def reply(self, rendered: Any, rows: Sequence[str]) -> list[Reply]: ...


def continued(asked: Sequence[Turn], reply: Reply) -> list[Turn]:
    """The turns that later questions see: those that the model saw, and this one if it was answered."""
    seen = list(asked[len(asked) - reply.kept : -1]) if reply.kept else []
    return seen if reply.text is None else [*seen, replace(asked[-1], answer=reply.text)]


def row_seed(seed: int, row: str) -> int:
    """The seed of a row's own random numbers: 63 bits of SHA-256 over the job's seed and the row's identity."""
    digest = hashlib.sha256(f"{seed}\0{row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def clean(text: str) -> str:
    """An answer without what could steer a terminal or turn text around; line feeds and tabs stay."""
    kept = (c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in _DIRECTION_MARKS))
    return "".join(kept).strip()
