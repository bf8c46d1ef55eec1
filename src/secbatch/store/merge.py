"""Pieces of files become parts of a healthy size: streamed, under names that their content decides."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from secbatch.store.durable_files import DurableFiles
from secbatch.store.filesystem import link_durably, rename_durably
from secbatch.store.gathered import Gathered, batches, gathered
from secbatch.store.layout import Layout
from secbatch.store.ledger_records import Part
from secbatch.store.parts import footer_sum, opened, write_tables
from secbatch.store.pieces import Piece, PieceKeys
from secbatch.store.row_keys import REJECTED, write_keys

PART_BYTES = 128 << 20  # what a part is to have where there is that much
PART_ROWS = 1 << 19  # no more than this: what is held of its row keys while it is written is a few bytes a row
SUPERSEDED = "_superseded"  # folder of rows that lost to a later row with their id


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
        folders = itertools.groupby(by_folder, key=lambda piece: piece.folder)
        groups = (group for _, members in folders for group in _grouped(list(members)))
        made: list[Part] = []
        for batch in batches(groups):
            kept = [pieces[0].part if len(pieces) == 1 else None for pieces in batch]
            new = [pieces for pieces, part in zip(batch, kept, strict=True) if not part]
            written = iter(self._written([(self._name(pieces), pieces) for pieces in new], self.part_schema))
            made += [part or next(written) for part in kept]
        return made

    def part(self, pieces: list[Piece], written: Path | None = None) -> Part:
        """The part that a group of pieces of one partition makes. `written`: a durable file of it, in its folder."""
        if len(pieces) == 1 and pieces[0].part:
            return pieces[0].part
        with DurableFiles() as files:
            part = self._write(self._name(pieces), pieces, self.part_schema, files, written=written)
        return self._sized(part)

    def superseded(self, pieces: list[Piece], columns: list[str]) -> list[Part]:
        """One part for each piece with rows, of the columns that tasks may take over."""
        schema = pa.schema([self.schema.field(name) for name in columns], self.metadata)
        made: list[Part] = []
        for batch in batches([piece] for piece in pieces if piece.rows):
            named = [(f"{SUPERSEDED}/{_digest_of_keys(PieceKeys(group), columns)}", group) for group in batch]
            made += self._written(named, schema, superseded=True)
        return made

    def empty(self) -> Part:
        """A part without rows, so that readers find the columns."""
        schema = self.schema.with_metadata(self.metadata)
        return self._written([(f"empty-{_digest(str(self.schema))}", [])], schema)[0]

    @cached_property
    def part_schema(self) -> pa.Schema:
        return pa.schema([field for field in self.schema if field.name not in self.partition_by], self.metadata)

    @cached_property
    def _columns(self) -> str:
        return str(self.part_schema.remove_metadata())

    def _name(self, pieces: list[Piece]) -> str:
        """Of the part that they make: their content decides it."""
        folder = pieces[0].folder
        digest = _digest(json.dumps([self._columns, [piece.identity() for piece in pieces]]))
        return f"{folder}/{digest}" if folder else digest

    def _written(self, named: list[tuple[str, list[Piece]]], schema: pa.Schema, superseded: bool = False) -> list[Part]:
        """The parts with these names and rows, which become durable together."""
        once: dict[str, list[Piece]] = {}
        for name, pieces in named:
            once.setdefault(name, pieces)  # superseded rows may be the same as others
        missing = [name for name in once if not self._there(name)]
        rows = dict(zip(missing, gathered([once[name] for name in missing], schema), strict=True))
        with DurableFiles() as files:
            made = {
                name: self._write(name, pieces, schema, files, superseded, rows.get(name))
                for name, pieces in once.items()
            }
        return [self._sized(made[name]) for name, _ in named]

    def _there(self, name: str) -> bool:
        """Both files of a part appear whole or not at all."""
        return self._part_file(name).exists() and self._keys_file(name).exists()

    def _part_file(self, name: str) -> Path:
        return self.layout.parts / f"{name}.parquet"

    def _keys_file(self, name: str) -> Path:
        return self.layout.keys / f"{name}.keys"

    def _sized(self, part: Part) -> Part:
        return replace(part, size=self._part_file(part.name).stat().st_size)

    def _write(
        self,
        name: str,
        pieces: list[Piece],
        schema: pa.Schema,
        files: DurableFiles,
        superseded: bool = False,
        rows: Gathered | None = None,
        written: Path | None = None,
    ) -> Part:
        """The part, its size not known yet: it is there when `files` are. `rows`: of the pieces, where at hand."""
        tasks: dict[str, list[str]] = {}
        for piece in pieces:
            for task, fingerprints in piece.tasks.items():
                tasks[task] = sorted({*tasks.get(task, ()), *fingerprints})
        keys = rows.keys if rows else PieceKeys(pieces)
        count, rejected = len(keys), sum(int(((block & REJECTED) != 0).sum()) for block in keys.blocks("flags"))
        there, file = self._there(name), self._part_file(name)
        if not file.exists():
            if written:
                rename_durably(written, file, "part")
            elif len(pieces) == 1 and pieces[0].whole and pieces[0].full and _has_schema(pieces[0].file, schema):
                link_durably(pieces[0].file, file, "part")  # the bytes that writing it again would give
            else:
                tables = [rows.table] if rows else (table for piece in pieces for table in piece.tables(schema))
                write_tables(file, schema, tables, "part", files=files)
        if not there:
            facts = {"tasks": tasks, "rows": count, "rejected": rejected, "run": self.run, "superseded": superseded}
            footer = footer_sum(files.place(file))
            write_keys(self._keys_file(name), keys, {**self.about, "part": facts}, "part keys", files, footer)
        return Part(name, tasks, (f"{name}.parquet",), count, rejected, 0, self.run, superseded)


def _has_schema(file: Path, schema: pa.Schema) -> bool:
    with opened(file) as rows:
        found = rows.schema_arrow
    # Field by field without metadata: a list's values have one name in memory and another in files.
    return bool(found.metadata == schema.metadata and found.equals(schema))


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


def _digest_of_keys(keys: PieceKeys, columns: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(columns).encode())  # a task may have got another name
    for name in ("ids", "flags", *(f"done {task}" for task in keys.tasks)):
        for block in keys.blocks(name):
            digest.update(np.ascontiguousarray(block).data)
    for flags, content in zip(keys.blocks("flags"), keys.blocks("content"), strict=True):
        digest.update(content[(flags & REJECTED) != 0].data)  # which tells whether they are rejected again
    return digest.hexdigest()[:24]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
