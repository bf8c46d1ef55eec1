"""What the readers of the formats hand to the slicer: a run of rows of one file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from secbatch.sources.shard import RAW_LIMIT, Reject

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

RECORD_LIMIT = 256 << 20  # bytes of one CSV record or JSON line; a longer one is rejected, memory stays bounded
BLOCK = 4 << 20  # bytes read and parsed at a time


@dataclass
class Piece:
    """Rows of one file in their order, and what was rejected among them."""

    file: str
    table: "pa.Table"  # n rows of the source's schema
    rows: "np.ndarray"  # int64 [n]: 1-based number of each row in its file
    errors: dict[int, str] = field(default_factory=dict)  # position in the piece -> sentence
    rejects: list[Reject] = field(default_factory=list)


class Reader(Protocol):
    """One file of a known schema."""

    def pieces(self) -> Iterator[Piece]:
        """All rows of the file, streamed; never raises for what is wrong inside the file."""
        ...

    def position(self) -> int:
        """Bytes of the file, as stored, that are read so far."""
        ...


def rows_bytes(table: "pa.Table") -> int:
    """What the rows of `table` take, each with its own text: a dictionary has it in memory once for all of them."""
    import pyarrow as pa

    from secbatch.value_bytes import value_bytes

    if not any(pa.types.is_dictionary(kind) for kind in table.schema.types):
        return int(table.nbytes)
    return max(table.nbytes, value_bytes(table))


def reject_piece(
    file: str, reason: str, raw: bytes, line: int | None, offset: int | None, whole_file: bool = False
) -> Reject:
    """A Reject whose raw text is cut at RAW_LIMIT."""
    return Reject(file, reason, line, offset, bytes(raw[:RAW_LIMIT]), whole_file)


def unreadable_piece(file: str, reason: str, schema: "pa.Schema") -> Piece:
    """A piece without rows: the file itself is the reject. `reason`: ends a sentence that starts with the file."""
    import numpy as np

    reject = reject_piece(file, f"the file {reason}", b"", None, None, whole_file=True)
    return Piece(file, schema.empty_table(), np.empty(0, np.int64), rejects=[reject])
