"""Neighbouring rows of a file, on their way into a part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import UnfitOutputError
from secbatch.store.dictionaries import as_type
from secbatch.store.ledger_records import Part
from secbatch.store.parts import opened
from secbatch.store.row_keys import BLOCK, REMOVED, StoredKeys

FULL_BYTES = 24 << 20  # a part of this size is left alone; a checkpoint of it becomes one without being read
SOURCE, ROW = "secbatch_source", "secbatch_row"  # columns that say where a row stands


@dataclass(frozen=True, slots=True)
class Moved:
    """k rows that are to have other places than in their file."""

    rows: np.ndarray  # int64 [k], ascending: counted from the piece's first
    source: pa.Array  # string [k]
    row: pa.Array  # int64 [k]
    place: np.ndarray  # uint64 [k]: digests of both


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one partition."""

    name: str  # of the file; the same name means the same content
    file: Path
    keys: StoredKeys
    tasks: dict[str, list[str]]  # task -> fingerprints
    folder: str  # partition
    start: int
    stop: int
    size: int  # bytes, about
    taken: np.ndarray | None = None  # bool [stop - start]: the rows that are wanted; None for all
    marked: np.ndarray | None = None  # bool [stop - start]: rows that are no longer in the input
    part: Part | None = None  # the piece is this part, whole and as it is
    moved: Moved | None = None

    @property
    def rows(self) -> int:
        return self.stop - self.start if self.taken is None else int(self.taken.sum())

    @property
    def changed(self) -> bool:
        """Whether something about its rows is to be other than in the file."""
        return self.marked is not None or self.moved is not None

    @property
    def whole(self) -> bool:
        """All that is in the file, and nothing about it is to change."""
        return self.taken is None and not self.changed and (self.start, self.stop) == (0, self.keys.rows)

    @property
    def full(self) -> bool:
        """Large enough to be a part alone."""
        kept = self.part is not None or self.whole
        return kept and self.size >= FULL_BYTES

    def identity(self) -> list[Any]:
        masks = [mask if mask is None else np.packbits(mask).tobytes().hex() for mask in (self.taken, self.marked)]
        moved = [] if self.moved is None else [self.moved.rows.tolist(), self.moved.place.tolist()]
        return [self.name, self.start, self.stop, *masks, *moved]

    def key_blocks(self, name: str) -> Iterator[np.ndarray]:
        """A column of the rows' keys, copied block by block; then the file is let go of."""
        column = self.keys.column(name)[self.start : self.stop]
        for start in range(0, len(column), BLOCK):
            block = self.changed_keys(name, column[start : start + BLOCK], start)
            yield block.copy() if self.taken is None else block[self.taken[start : start + BLOCK]]
        del column
        self.keys.release()

    def changed_keys(self, name: str, block: np.ndarray, first: int) -> np.ndarray:
        """Of a column of the rows' keys those from the piece's row `first` on, with what is to be other than there."""
        if name == "flags" and self.marked is not None:
            return np.where(self.marked[first : first + len(block)], block | REMOVED, block)
        if name == "place" and self.moved is not None:
            low, high = np.searchsorted(self.moved.rows, [first, first + len(block)])
            block = block.copy()
            block[self.moved.rows[low:high] - first] = self.moved.place[low:high]
        return block

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows in the columns of `schema`, a row group at a time."""
        for first, table in row_groups(self.file, schema, [(self.start, self.stop)]):
            place = first - self.start
            table = self.changed_rows(table, place)
            if self.taken is not None:
                table = table.filter(pa.array(self.taken[place : place + table.num_rows]))
            yield conformed(table, schema)

    def changed_rows(self, table: pa.Table, first: int) -> pa.Table:
        """The piece's rows from its row `first` on, with what is to be other than in the file."""
        window = slice(first, first + table.num_rows)
        if self.marked is not None and "secbatch_status" in table.column_names and self.marked[window].any():
            place = table.schema.get_field_index("secbatch_status")
            status = pc.if_else(pa.array(self.marked[window]), "removed", table.column(place))
            table = table.set_column(place, "secbatch_status", status)
        if self.moved is not None:
            table = _with_places(table, first, self.moved)
        return table


def _with_places(table: pa.Table, first: int, moved: Moved) -> pa.Table:
    """The rows of a piece from its row `first` on, those that are `moved` with their places."""
    low, high = np.searchsorted(moved.rows, [first, first + table.num_rows])
    mask = np.zeros(table.num_rows, bool)
    mask[moved.rows[low:high] - first] = True
    for name, values in ((SOURCE, moved.source), (ROW, moved.row)):
        if name in table.column_names and mask.any():
            column = table.column(name).combine_chunks()
            changed = pc.replace_with_mask(column, pa.array(mask), values[low:high].cast(column.type))
            table = table.set_column(table.schema.get_field_index(name), name, changed)
    return table


def row_groups(file: Path, schema: pa.Schema, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of `spans`, row group by row group, each piece of them with the number of its first row.

    In those columns of `schema` that the file has. `spans`: first row and row after the last, apart and in order.
    Raises OutputError.
    """
    with opened(file) as rows:
        names = set(rows.schema_arrow.names)
        known = [name for name in schema.names if name in names]
        first = 0
        for group in range(rows.metadata.num_row_groups):
            end = first + rows.metadata.row_group(group).num_rows
            inside = [(max(start, first), min(stop, end)) for start, stop in spans if start < end and first < stop]
            if inside:
                table = rows.read_row_group(group, columns=known)
                yield from ((low, table.slice(low - first, high - low)) for low, high in inside)
            first = end


@dataclass(frozen=True)
class PieceKeys:
    """The keys of pieces, one after another: see KeyColumns."""

    pieces: Sequence[Piece]

    def __len__(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(name for piece in self.pieces for name in piece.keys.tasks if name in piece.tasks))

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        return (block for piece in self.pieces for block in piece.key_blocks(name))


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """In the columns of `schema`, without metadata: missing ones null.

    Raises UnfitOutputError where types do not convert.
    """
    columns = []
    places = {name: place for place, name in enumerate(table.column_names)}  # asked of Arrow once: it lists them all
    for field in schema:
        place = places.get(field.name)
        if place is None:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(as_type(table.column(place), field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            kind = table.schema.field(place).type
            raise UnfitOutputError(
                f"Column '{field.name}' is {field.type} now but {kind} in rows kept from earlier runs, and they do "
                "not convert; use `mode: overwrite`, or another output."
            ) from None
    return pa.table(columns, schema=schema.remove_metadata())
