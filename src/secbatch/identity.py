"""Which row is which: the names of rows, and the keys by which the store knows them."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.row_hash import as_text, column_digests, digests, hash_content, hash_places, hexadecimal_column, mixed
from secbatch.sources.shard import Shard
from secbatch.store.documents import of_earlier_documents
from secbatch.store.occurrences import Occurrences
from secbatch.store.unnamed import not_of_places, place_name

if TYPE_CHECKING:
    from secbatch.job import Job

SENTENCE_INDEX = "sentence_index"


@dataclass(frozen=True)
class Identified:
    """A shard whose n rows have names."""

    shard: Shard
    ids: pa.Array  # string [n], unique within the shard
    superseded: int  # rows left out because a later row of the shard has their id, or a later document theirs
    keys: np.ndarray  # uint64 [n, 2]: digests of the identities
    content: np.ndarray  # uint64 [n, 2]: digests of all input columns and of what is wrong with the row
    place: np.ndarray  # uint64 [n]: digests of file and row number

    def take(self, rows: np.ndarray) -> "Identified":
        """The rows at these positions, ascending."""
        shard = _take(self.shard, rows)
        ids = self.ids.take(pa.array(rows))
        return Identified(shard, ids, 0, self.keys[rows], self.content[rows], self.place[rows])

    def with_errors(self, errors: dict[int, str]) -> "Identified":
        """With what is wrong with more rows: positions and sentences."""
        shard = replace(self.shard, errors={**self.shard.errors, **errors})
        return replace(self, shard=shard, content=_with_errors(self.content, errors))


class Identities:
    """Names the rows of one run, shard after shard, in input order.

    With `id` columns a row's name is their values; without, it is the hash of the row's content and its
    occurrence number over the whole input, so that equal rows stay apart and a renamed file changes nothing.
    """

    def __init__(self, columns: tuple[str, ...], sentences: bool, scratch: Path, in_order: bool = True) -> None:
        """`scratch`: a folder for what does not fit in memory; made when needed, removed by the caller.

        `in_order`: rows come in the order of the input, in which the sentences of a document follow its first one.
        """
        self._sentences, self._in_order = sentences and bool(columns), in_order
        self._columns = (*columns, SENTENCE_INDEX) if self._sentences else columns
        self._occurrences = Occurrences(scratch)

    @classmethod
    def of(cls, job: "Job", scratch: Path) -> "Identities":
        """For the shards of a run of `job`."""
        return cls(job.input.id, job.input.sentences is not None, scratch, in_order=not job.holds_conversations)

    def name(self, shard: Shard) -> Identified:
        if not self._columns:
            return self._by_content(shard)
        ids, errors = self._by_columns(shard)
        superseded = 0
        replaced = of_earlier_documents(ids) if self._sentences and self._in_order else np.zeros(len(ids), bool)
        if replaced.any() or len(pc.unique(ids)) < len(ids):
            last = {name: position for position, name in enumerate(ids.to_pylist()) if not replaced[position]}
            superseded = len(ids) - len(last)
            keep = np.array(sorted(last.values()), np.int64)
            renumbered = {int(old): new for new, old in enumerate(keep)}
            errors = {renumbered[old]: text for old, text in errors.items() if old in renumbered}
            shard, ids = _take(shard, keep), ids.take(pa.array(keep))
        shard = Shard(shard.index, shard.table, shard.source, shard.row, {**errors, **shard.errors}, shard.rejects)
        keys = column_digests(ids)
        content = _with_errors(hash_content(shard.table), shard.errors)
        return Identified(shard, ids, superseded, keys, content, hash_places(shard.source, shard.row))

    def keys(self, shard: Shard) -> np.ndarray:
        """uint64 [n, 2]: digests of the names of all rows, by their `id` columns."""
        ids, _ = self._by_columns(shard)
        return column_digests(ids)

    def _by_content(self, shard: Shard) -> Identified:
        content = hash_content(shard.table)
        numbers = self._occurrences.count(content[:, 0])
        occurrence = pa.array(numbers).cast(pa.large_string())
        ids = pc.binary_join_element_wise(hexadecimal_column(content), occurrence, pa.scalar("-", pa.large_string()))
        keys = mixed(content, numbers.astype(np.uint64))
        content = _with_errors(content, shard.errors)
        return Identified(shard, ids.cast(pa.string()), 0, keys, content, hash_places(shard.source, shard.row))

    def _by_columns(self, shard: Shard) -> tuple[pa.Array, dict[int, str]]:
        columns = [as_text(shard.table.column(name)) for name in self._columns]
        if self._sentences:  # a blank document's only row has no index: it stands where its first sentence would
            columns[-1] = pc.fill_null(columns[-1], "0")
        if len(columns) > 1:
            escaped = [pc.replace_substring(pc.replace_substring(c, "\\", "\\\\"), "/", "\\/") for c in columns]
            names = pc.binary_join_element_wise(*escaped, pa.scalar("/", pa.large_string()))
        else:
            names = columns[0]
        names = not_of_places(names)
        blank = _blank(columns[: len(columns) - self._sentences])
        if pc.any(blank).as_py():  # of these rows one would take the place of all others
            names = pc.if_else(blank, pa.scalar(None, names.type), names)
        errors = {}
        if names.null_count:
            texts = names.to_pylist()
            for position in np.flatnonzero(names.is_null().to_numpy()).tolist():
                null = (c for c, text in zip(self._columns, columns, strict=True) if text[position].as_py() is None)
                column, row = next(null, None), shard.row[position].as_py()
                what = f"'{self._columns[0]}' is empty" if column is None else f"'{column}' is null"
                sentence = int(columns[-1][position].as_py()) if self._sentences else 0
                texts[position] = place_name(shard.source[position].as_py(), row, sentence)
                errors[position] = f"Row {row}: id column {what}; give it a value."
            names = pa.chunked_array([pa.array(texts, pa.large_string())])
        return names.cast(pa.string()).combine_chunks(), errors


def _blank(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """bool [n]: rows in which each of these texts is empty, or white space."""
    blank = None
    for column in columns:
        empty = pc.equal(pc.utf8_trim_whitespace(column), pa.scalar("", column.type))
        blank = empty if blank is None else pc.and_(blank, empty)
    return blank


def _with_errors(content: np.ndarray, errors: dict[int, str]) -> np.ndarray:
    """A row with another error is another row: it is to be written anew."""
    if not errors:
        return content
    content = content.copy()
    rows = np.fromiter(errors, dtype=np.int64, count=len(errors))
    content[rows] ^= digests([text.encode() for text in errors.values()])
    return content


def _take(shard: Shard, keep: np.ndarray) -> Shard:
    positions = pa.array(keep, pa.int64())
    errors = {}
    if shard.errors:
        renumbered = {int(old): new for new, old in enumerate(keep)}
        errors = {renumbered[old]: text for old, text in shard.errors.items() if old in renumbered}
    table, source, row = shard.table.take(positions), shard.source.take(positions), shard.row.take(positions)
    return Shard(shard.index, table, source, row, errors, shard.rejects)


def content_key(identified: Identified, schema: pa.Schema, more: str) -> str:
    """Hex digest of all that stands in a shard (columns and types, values, identities, places), and of `more`."""
    digest = hashlib.sha256(json.dumps([str(schema.remove_metadata()), more]).encode())
    for array in (identified.keys, identified.content, identified.place):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
