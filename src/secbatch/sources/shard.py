"""What a source yields: shards of rows, and the lines it could not read."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Reject:
    """A piece of a file that could not be parsed into a row; it goes to the dead letters, never away."""

    source: str  # the file, as the job names it
    reason: str  # one sentence: what is wrong and how to mend it
    line: int | None = None  # 1-based physical line where the piece starts
    byte_offset: int | None = None  # 0-based offset of that line in the (decompressed) file
    raw: bytes = b""  # the piece itself, cut at RAW_LIMIT bytes
    whole_file: bool = False  # the file itself is unreadable from here on: how many rows are lost is unknown


RAW_LIMIT = 1 << 20  # bytes of a rejected piece that are kept; more would let one bad file fill the disk


@dataclass(frozen=True)
class Shard:
    """A fixed slice of the input: the unit of work and of checkpoint. All columns have the same length n.

    `errors` maps a position in the shard (0-based) to one sentence: the row was parsed, stays in the
    dataset with its input columns, but no task may use it (a value that is not of its declared type).
    """

    index: int  # 0-based position in the run
    table: "pa.Table"  # the input columns, in order, unchanged
    source: "pa.Array"  # string or dictionary<string>: file of each row
    row: "pa.Array"  # int64: 1-based data row of each row in its file
    errors: dict[int, str] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()  # lines rejected since the previous shard
    superseded: int = 0  # rows left out since the previous shard, as a later row of the input has their id

    @property
    def num_rows(self) -> int:
        return int(self.table.num_rows)
