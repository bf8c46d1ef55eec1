"""Text that a model wrote, on its way into columns."""

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from secbatch.tasks.base import TaskColumns

# Marks that turn the direction of text around and so can disguise what stands in a terminal or a report.
# https://www.unicode.org/reports/tr9/
_DIRECTION_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class GeneratedText(Protocol):
    """What became of one row."""

    @property
    def text(self) -> str | None: ...

    @property
    def tokens(self) -> int | None: ...  # new ones, before the first end token; None where nobody counts them

    @property
    def truncated(self) -> bool: ...  # what the model should have read did not fit

    @property
    def error(self) -> str | None: ...


def text_fields(name: str) -> tuple[pa.Field, ...]:
    """The columns of a task that writes text."""
    return (
        pa.field(name, pa.string()),
        pa.field(f"{name}_tokens", pa.int32()),
        pa.field(f"{name}_truncated", pa.bool_()),
    )


def text_columns(name: str, rows: Sequence[GeneratedText | None], tokens: int, padding: int) -> TaskColumns:
    """`rows`: [n], None where there was nothing to do. `tokens`, `padding`: positions worked on for them."""
    good = [row if row is not None and row.error is None else None for row in rows]
    columns = {
        name: pa.array([row and row.text for row in good], pa.string()),
        f"{name}_tokens": pa.array([row and row.tokens for row in good], pa.int32()),
        f"{name}_truncated": pa.array([row and row.truncated for row in good], pa.bool_()),
    }
    errors = {
        place: f"Task '{name}': {row.error}."
        for place, row in enumerate(rows)
        if row is not None and row.error is not None
    }
    return TaskColumns(columns, errors, tokens, padding)


def row_seed(seed: int, row: str) -> int:
    """The seed of a row's own random numbers: 63 bits of SHA-256 over the job's seed and the row's identity."""
    digest = hashlib.sha256(f"{seed}\0{row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def clean(text: str) -> str:
    """A text without what could steer a terminal or turn text around; line feeds and tabs stay."""
    kept = (c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in _DIRECTION_MARKS))
    return "".join(kept).strip()
