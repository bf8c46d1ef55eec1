"""Pieces of files to shards: the boundaries are a pure function of the pieces and the row targets."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from secbatch.sources.piece import Piece, rows_bytes
from secbatch.sources.shard import Reject, Shard

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_BYTES = 64 << 20  # input bytes after which a shard ends
REJECTS_HELD = 2_000  # rejects, and bytes of them, that one shard carries
REJECT_BYTES = 16 << 20


class _Pending:
    """Rows that wait for a shard."""

    def __init__(self, schema: "pa.Schema") -> None:
        self.schema = schema
        self.clear()

    def clear(self) -> None:
        self.tables: list[pa.Table] = []
        self.files: list[str] = []
        self.numbers: list[np.ndarray] = []
        self.errors: dict[int, str] = {}
        self.rejects: list[Reject] = []
        self.rows = 0
        self.bytes = 0
        self.uncut = True  # whether all pieces are here with all of their rows
        self.reject_bytes = 0

    def add(self, piece: Piece, start: int, stop: int) -> None:
        table = piece.table.slice(start, stop - start)
        self.tables.append(table)
        self.files.append(piece.file)
        self.numbers.append(piece.rows[start:stop])
        if piece.errors:  # of a piece that becomes thousands of shards, only the rows of this one are looked at
            for place in range(start, stop):
                if place in piece.errors:
                    self.errors[self.rows + place - start] = piece.errors[place]
        self.rows += stop - start
        self.uncut = self.uncut and stop - start == len(piece.rows)
        self.bytes += rows_bytes(table)

    def add_rejects(self, rejects: list[Reject]) -> None:
        self.rejects += rejects
        self.reject_bytes += sum(len(reject.raw) for reject in rejects)

    def shard(self, index: int) -> Shard:
        import pyarrow as pa

        # One piece is taken as it is: it may be a row of 200 MB.
        alone = self.uncut and len(self.tables) == 1
        table = self.tables[0] if alone else pa.concat_tables([self.schema.empty_table(), *self.tables])
        names = list(dict.fromkeys(self.files))
        places = {name: place for place, name in enumerate(names)}
        lengths = [len(numbers) for numbers in self.numbers]
        codes = np.repeat(np.array([places[f] for f in self.files], dtype=np.int32), lengths)
        source = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))
        numbers = np.concatenate([np.empty(0, np.int64), *self.numbers])
        shard = Shard(
            index,
            _in_one_chunk(table),
            source,
            pa.array(numbers, pa.int64()),
            dict(self.errors),
            tuple(self.rejects),
        )
        self.clear()
        return shard


def _in_one_chunk(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa

    try:
        return table.combine_chunks()
    except pa.ArrowNotImplementedError:  # different dictionaries inside nested types
        return table


def slice_pieces(pieces: Iterator[Piece], schema: "pa.Schema", shard_rows: Callable[[int], int]) -> Iterator[Shard]:
    """Shards of `shard_rows(index)` rows each; the last one, and those of large rows, are smaller.

    Rows of several files may share a shard, so that thousands of small files do not become thousands of
    shards. Rejects travel with the shard that is being filled when they are met; many of them end it early,
    with no rows if need be, and so may the end of the input.
    """
    index = 0
    pending = _Pending(schema)
    for piece in pieces:
        start = 0
        pending.add_rejects(piece.rejects)
        row_bytes = max(1, rows_bytes(piece.table) // max(1, len(piece.rows)))
        while start < len(piece.rows):
            room_bytes = max(0, SHARD_BYTES - pending.bytes)
            room = min(max(1, shard_rows(index)) - pending.rows, room_bytes // row_bytes + 1)
            stop = min(len(piece.rows), start + room)
            pending.add(piece, start, stop)
            start = stop
            if pending.rows >= max(1, shard_rows(index)) or pending.bytes >= SHARD_BYTES:
                yield pending.shard(index)
                index += 1
        if len(pending.rejects) >= REJECTS_HELD or pending.reject_bytes >= REJECT_BYTES:
            yield pending.shard(index)
            index += 1
    if pending.rows or pending.rejects:
        yield pending.shard(index)
