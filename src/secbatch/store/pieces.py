"""Neighbouring rows of a file, on their way into a part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from secbatch.errors import UnfitOutputError
from secbatch.store.dictionaries import as_type
from secbatch.store.ledger_records import Part
from secbatch.store.parts import opened
from secbatch.store.row_keys import BLOCK, REMOVED, StoredKeys

FULL_BYTES = 24 << 20  # a part of this size is left alone; a checkpoint of it becomes one without being read


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

    @property
    def rows(self) -> int:
        return self.stop - self.start if self.taken is None else int(self.taken.sum())

    @property
    def whole(self) -> bool:
        """All that is in the file, and nothing about it is to change."""
        return self.taken is None and self.marked is None and (self.start, self.stop) == (0, self.keys.rows)

    @property
    def full(self) -> bool:
        """Large enough to be a part alone."""
        kept = self.part is not None or self.whole
        return kept and self.size >= FULL_BYTES

    def identity(self) -> list[Any]:
        masks = [mask if mask is None else np.packbits(mask).tobytes().hex() for mask in (self.taken, self.marked)]
        return [self.name, self.start, self.stop, *masks]

    def key_blocks(self, name: str) -> Iterator[np.ndarray]:
        """A column of the rows' keys, copied block by block; then the file is let go of."""
        column = self.keys.column(name)[self.start : self.stop]
        for start in range(0, len(column), BLOCK):
            block = column[start : start + BLOCK]
            if name == "flags" and self.marked is not None:
                block = np.where(self.marked[start : start + BLOCK], block | REMOVED, block)
            yield block.copy() if self.taken is None else block[self.taken[start : start + BLOCK]]
        del column
        self.keys.release()

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows in the columns of `schema`, a row group at a time."""
        for first, table in row_groups(self.file, schema, [(self.start, self.stop)]):
            yield conformed(self._chosen(table, first - self.start), schema)

    def _chosen(self, table: pa.Table, first: int) -> pa.Table:
        window = slice(first, first + table.num_rows)
        if self.marked is not None and "secbatch_status" in table.column_names and self.marked[window].any():
            place = table.schema.get_field_index("secbatch_status")
            status = pa.compute.if_else(pa.array(self.marked[window]), "removed", table.column(place))
            table = table.set_column(place, "secbatch_status", status)
        return table if self.taken is None else table.filter(pa.array(self.taken[window]))


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
