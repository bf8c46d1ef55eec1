"""The rows that texts are compared with: read, checked and hashed before the first row of the input.

A reference is small beside an input and somebody's list: what is wrong with a row of it is to be mended, not
rejected. Its texts are not held; they are read again, once, when their vectors are made.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import InputError, JobError, SecbatchError, columns_there, nearest, quoted, shown, with_keys_of
from secbatch.job import Input
from secbatch.row_hash import as_text, column_digests
from secbatch.sources.open import Source, open_source
from secbatch.sources.piece import Piece
from secbatch.tasks.text import TextSource

if TYPE_CHECKING:
    from secbatch.task_specs import Reference as Spec

CHUNK = 8192  # texts given out at a time


@dataclass(frozen=True)
class Reference:
    """R rows with an id and a text each, in the order of the files."""

    spec: "Spec"
    key: str  # where the job names it, for messages
    ids: pa.Array  # [R] string, no null, each once
    text_keys: np.ndarray  # [R, 2] uint64: a 128-bit hash of each text

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """Hex sha256 of ids and texts in their order."""
        return hashlib.sha256(column_digests(self.ids).tobytes() + self.text_keys.tobytes()).hexdigest()

    def first_with_text(self) -> np.ndarray:
        """[R] int64: the first row that has the same text."""
        return _first_of(self.text_keys)

    def texts(self) -> Iterator[tuple[int, list[str]]]:
        """Reads the files again: (number of the first row, texts), CHUNK at most. Raises InputError for other texts."""
        start = 0
        for piece in _pieces(self.spec, self.key):
            for first in range(0, piece.table.num_rows, CHUNK):
                texts = _text(self.spec, piece.table.slice(first, CHUNK), self.key)
                keys = column_digests(texts)
                if not np.array_equal(keys, self.text_keys[start : start + len(keys)]):
                    raise InputError(f"{self.key}: {piece.file} has changed since this run began; run again")
                yield start, texts.to_pylist()
                start += len(keys)
        if start != len(self):
            raise InputError(f"{self.key}: {self.spec.path} has changed since this run began; run again")


def read_reference(spec: "Spec", key: str) -> Reference:
    """Raises InputError or JobError, one sentence, for what cannot be a reference."""
    ids: list[pa.Array] = []
    text_keys: list[np.ndarray] = []
    places: list[tuple[str, np.ndarray]] = []  # of each piece: the file and its row numbers
    for piece in _pieces(spec, key):
        id_column = _ids(piece.table.column(spec.id))
        texts = _text(spec, piece.table, key)
        _refuse_empty(spec, key, piece, id_column, texts)
        ids.append(id_column)
        text_keys.append(column_digests(texts))
        places.append((piece.file, piece.rows))
    reference = Reference(spec, key, pa.concat_arrays(ids), np.concatenate(text_keys)) if ids else None
    if reference is None or not len(reference):
        raise InputError(f"{key}: {spec.path} holds no rows to compare with")
    _refuse_doubles(reference, places)
    return reference


def _source(spec: "Spec", key: str) -> Source:
    given = spec.model_dump(include={"path", "format", "delimiter", "encoding"})
    try:
        return open_source(Input.model_validate(given), lambda number: CHUNK)
    except (InputError, JobError) as error:
        raise type(error)(f"{key}: {_of_reference(str(error))}") from None


def _of_reference(sentence: str) -> str:
    """What the sources say of an input, with the names that a reference's keys have."""
    sentence = with_keys_of("reference", sentence)
    for theirs, ours in (("input path", "path"), ("input folder", "folder")):
        sentence = sentence.replace(theirs, ours)
    return sentence


def _pieces(spec: "Spec", key: str) -> Iterator[Piece]:
    source = _source(spec, key)
    if spec.id not in source.schema.names:
        columns = source.schema.names
        raise JobError(
            f"{key}.id: there is no column '{shown(spec.id)}' in {spec.path}{nearest(spec.id, columns)};"
            f" {columns_there(columns)}"
        )
    if pa.types.is_nested(source.schema.field(spec.id).type):
        raise JobError(f"{key}.id: column '{spec.id}' of {spec.path} is a {source.schema.field(spec.id).type}, no id")
    try:
        for piece in source.pieces():
            for reject in piece.rejects:
                line = f" line {reject.line}" if reject.line else ""
                reason = _of_reference(reject.reason.rstrip("."))
                raise InputError(f"{key}: {reject.source}{line}: {reason}; a reference must be whole")
            for position, sentence in piece.errors.items():
                reason = _of_reference(sentence.rstrip("."))
                raise InputError(f"{key}: row {piece.rows[position]}: {reason}; a reference must be whole")
            yield piece
    except SecbatchError as error:
        raise error if str(error).startswith(key) else type(error)(f"{key}: {error}") from None


def _ids(column: pa.ChunkedArray) -> pa.Array:
    """Ids as text: bytes that are text as it, others in hexadecimal; a UUID in its usual form."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        with suppress(pa.ArrowInvalid):
            return column.cast(pa.string()).combine_chunks()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    ids = as_text(column).cast(pa.string()).combine_chunks()
    # What is no number names no row.
    return pc.if_else(pc.equal(ids, "nan"), None, ids) if pa.types.is_floating(kind) else ids


def _text(spec: "Spec", table: pa.Table, key: str) -> pa.Array:
    return TextSource.of(spec.text, table.schema, f"{key}.text", spec.path).render(table)


def _refuse_empty(spec: "Spec", key: str, piece: Piece, ids: pa.Array, texts: pa.Array) -> None:
    for column, what in ((ids, f"no id in '{spec.id}'"), (texts, f"no text in '{spec.text}'")):
        filled = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False)
        empty = np.flatnonzero(~filled.to_numpy(zero_copy_only=False))
        if len(empty):
            more = f" (nor have {len(empty) - 1} other rows)" if len(empty) > 1 else ""
            row = int(piece.rows[empty[0]])
            raise InputError(f"{key}: {piece.file} row {row} has {what}{more}; fill it in or take the row out")


def _refuse_doubles(reference: Reference, places: list[tuple[str, np.ndarray]]) -> None:
    first = _first_of(column_digests(reference.ids))
    doubles = np.flatnonzero(first != np.arange(len(first)))
    if not len(doubles):
        return
    starts = np.cumsum([0, *(len(rows) for _, rows in places)])

    def place(row: int) -> str:
        piece = int(np.searchsorted(starts, row, side="right")) - 1
        file, rows = places[piece]
        return f"{file} row {int(rows[row - starts[piece]])}"

    row = int(doubles[0])
    name = quoted(reference.ids[row].as_py())
    raise InputError(
        f"{reference.key}: the id {name} stands twice, in {place(int(first[row]))} and in {place(row)}; an id names"
        " one row, so take one of them out"
    )


def _first_of(keys: np.ndarray) -> np.ndarray:
    """[n] int64: for each of `keys` [n, 2] the first place where it stands."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: the first place of a key comes first among its equals
    ordered = keys[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = np.empty(len(keys), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first
