"""Pieces of files become parts of a healthy size: streamed, under names that their content decides."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from secbatch.errors import OutputError
from secbatch.store.filesystem import link_durably, rename_durably
from secbatch.store.layout import Layout
from secbatch.store.ledger import Part
from secbatch.store.parts import unreadable, write_tables
from secbatch.store.row_keys import BLOCK, REJECTED, REMOVED, StoredKeys, write_keys

PART_BYTES = 128 << 20  # what a part is to have where there is that much
PART_ROWS = 1 << 19  # no more than this: what is held of its row keys while it is written is a few bytes a row
FULL_BYTES = 24 << 20  # a part of this size is left alone; a checkpoint of it becomes one without being read
SUPERSEDED = "_superseded"  # folder of rows that lost to a later row with their id


@dataclass(frozen=True)
class Piece:
    """Neighbouring rows of a file, on their way into a part."""

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
        try:
            with pq.ParquetFile(self.file) as file:
                first, names = 0, set(file.schema_arrow.names)
                known = [name for name in schema.names if name in names]
                for group in range(file.metadata.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    low, high = max(self.start, first), min(self.stop, first + rows)
                    if low < high:
                        table = file.read_row_group(group, columns=known).slice(low - first, high - low)
                        yield conformed(self._chosen(table, low - self.start), schema)
                    first += rows
        except (OSError, pa.ArrowInvalid) as error:
            raise unreadable(self.file, error) from None

    def _chosen(self, table: pa.Table, first: int) -> pa.Table:
        window = slice(first, first + table.num_rows)
        if self.marked is not None and "secbatch_status" in table.column_names and self.marked[window].any():
            place = table.schema.get_field_index("secbatch_status")
            status = pa.compute.if_else(pa.array(self.marked[window]), "removed", table.column(place))
            table = table.set_column(place, "secbatch_status", status)
        return table if self.taken is None else table.filter(pa.array(self.taken[window]))


@dataclass(frozen=True)
class PieceKeys:
    """The keys of pieces, one after another: see KeyColumns."""

    pieces: Sequence[Piece]

    def __len__(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(name for piece in self.pieces for name in piece.keys.tasks))

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        return (block for piece in self.pieces for block in piece.key_blocks(name))


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """In the columns of `schema`, without metadata: missing ones null.

    Raises OutputError where types do not convert.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            kind = table.schema.field(field.name).type
            raise OutputError(
                f"Column '{field.name}' is {field.type} now but {kind} in rows kept from earlier runs, and they do "
                "not convert; use `mode: overwrite`, or another output."
            ) from None
    return pa.table(columns, schema=schema.remove_metadata())


@dataclass(frozen=True)
class Merger:
    """Writes parts for one run."""

    layout: Layout
    schema: pa.Schema  # of the dataset, partition columns included
    partition_by: tuple[str, ...]
    metadata: dict[bytes, bytes]  # of the part files
    about: dict[str, Any]  # of their row keys: what a lost ledger is rebuilt from
    run: str

    def parts(self, pieces: list[Piece]) -> list[Part]:
        """Parts that hold the pieces' rows, partition by partition and in their order; pieces without rows go."""
        by_folder = sorted((piece for piece in pieces if piece.rows), key=lambda piece: piece.folder)
        result = []
        for _, members in itertools.groupby(by_folder, key=lambda piece: piece.folder):
            for group in _grouped(list(members)):
                result.append(self.part(group))
        return result

    def part(self, pieces: list[Piece], written: Path | None = None) -> Part:
        """The part that a group of pieces of one partition makes. `written`: a durable file of it, in its folder."""
        if len(pieces) == 1 and pieces[0].part:
            return pieces[0].part
        schema, folder = self.part_schema, pieces[0].folder
        digest = _digest(json.dumps([str(schema.remove_metadata()), [piece.identity() for piece in pieces]]))
        return self._write(f"{folder}/{digest}" if folder else digest, pieces, schema, written=written)

    @property
    def part_schema(self) -> pa.Schema:
        return pa.schema([field for field in self.schema if field.name not in self.partition_by], self.metadata)

    def superseded(self, pieces: list[Piece], columns: list[str]) -> list[Part]:
        """One part for each piece with rows, of the columns that tasks may take over."""
        schema = pa.schema([self.schema.field(name) for name in columns], self.metadata)
        made = []
        for piece in pieces:
            if piece.rows:
                name = f"{SUPERSEDED}/{_digest_of_keys(PieceKeys([piece]))}"
                made.append(self._write(name, [piece], schema, superseded=True))
        return made

    def empty(self) -> Part:
        """A part without rows, so that readers find the columns."""
        return self._write(f"empty-{_digest(str(self.schema))}", [], self.schema.with_metadata(self.metadata))

    def _write(
        self, name: str, pieces: list[Piece], schema: pa.Schema, superseded: bool = False, written: Path | None = None
    ) -> Part:
        tasks: dict[str, list[str]] = {}
        for piece in pieces:
            for task, fingerprints in piece.tasks.items():
                tasks[task] = sorted({*tasks.get(task, ()), *fingerprints})
        file = self.layout.parts / f"{name}.parquet"
        rows, rejected = self._write_keys(name, pieces, tasks, superseded, file)
        if not file.exists():
            if written:
                rename_durably(written, file, "part")
            elif len(pieces) == 1 and pieces[0].whole and pieces[0].full and _has_schema(pieces[0].file, schema):
                link_durably(pieces[0].file, file, "part")  # the bytes that writing it again would give
            else:
                write_tables(file, schema, (table for piece in pieces for table in piece.tables(schema)), "part")
        size = file.stat().st_size
        return Part(name, tasks, (f"{name}.parquet",), rows, rejected, size, self.run, superseded)

    def _write_keys(
        self, name: str, pieces: list[Piece], tasks: dict[str, list[str]], superseded: bool, file: Path
    ) -> tuple[int, int]:
        """Rows of the pieces, and how many of them were rejected."""
        keys = PieceKeys(pieces)
        rows, rejected = len(keys), sum(int(((block & REJECTED) != 0).sum()) for block in keys.blocks("flags"))
        sidecar = self.layout.keys / f"{name}.keys"
        if not (file.exists() and sidecar.exists()):  # both appear whole or not at all
            facts = {"tasks": tasks, "rows": rows, "rejected": rejected, "run": self.run, "superseded": superseded}
            write_keys(sidecar, keys, {**self.about, "part": facts}, "part keys")
        return rows, rejected


def _has_schema(file: Path, schema: pa.Schema) -> bool:
    try:
        found = pq.read_schema(file)
        # Field by field without metadata: a list's values have one name in memory and another in files.
        return bool(found.metadata == schema.metadata and found.equals(schema))
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(file, error) from None


class Grouping:
    """Neighbours that make a part together: as many as fit; a part that is large enough stays as it is."""

    def __init__(self) -> None:
        self.open: list[Piece] = []  # the group that more pieces may join
        self._size = self._rows = 0

    def add(self, piece: Piece) -> Iterator[list[Piece]]:
        """The groups that end with this piece, or before it."""
        alone = piece.full
        if self.open and (alone or self._size + piece.size > PART_BYTES or self._rows + piece.rows > PART_ROWS):
            yield self.rest()
        self.open.append(piece)
        self._size, self._rows = self._size + piece.size, self._rows + piece.rows
        if alone:
            yield self.rest()

    def rest(self) -> list[Piece]:
        """The open group, which ends now."""
        group, self.open = self.open, []
        self._size = self._rows = 0
        return group


def _grouped(pieces: list[Piece]) -> Iterator[list[Piece]]:
    grouping = Grouping()
    for piece in pieces:
        yield from grouping.add(piece)
    if grouping.open:
        yield grouping.rest()


def _digest_of_keys(keys: PieceKeys) -> str:
    digest = hashlib.sha256()
    for name in ("ids", *(f"done {task}" for task in keys.tasks)):
        for block in keys.blocks(name):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()[:24]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
