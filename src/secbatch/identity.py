"""Which row is which: identities of rows, and the key of a shard's content."""

import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.sources.shard import Shard

SENTENCE_INDEX = "sentence_index"


class SeenRows:
    """A set of row identities of this run: 8 bytes a row, as sorted runs that are merged when alike in size.

    Identities are reduced to 64 bits with a key drawn anew for each process, so that nobody can prepare rows
    that collide.
    """

    def __init__(self) -> None:
        self._key = os.urandom(16)
        self._sorted_runs: list[np.ndarray] = []  # uint64, longest first

    def digests(self, identities: list[str]) -> np.ndarray:
        """uint64 [n]."""
        key = self._key
        joined = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in identities)
        return np.frombuffer(joined, dtype=np.uint64)

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """bool [n]."""
        found = np.zeros(len(digests), dtype=bool)
        for run in self._sorted_runs:
            positions = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            found |= run[positions] == digests
        return found

    def add(self, digests: np.ndarray) -> None:
        if not len(digests):
            return
        run = np.unique(digests)
        while self._sorted_runs and len(self._sorted_runs[-1]) <= 2 * len(run):
            run = np.union1d(self._sorted_runs.pop(), run)
        self._sorted_runs.append(run)


@dataclass(frozen=True)
class Identified:
    """A shard whose rows have names."""

    shard: Shard
    ids: pa.Array  # string [n], unique within the shard
    superseded: int  # rows left out because a later row of the shard has their id
    repeated: tuple[str, ...]  # ids that an earlier shard of this run has too: this shard's rows win
    hashes: tuple[str, ...] | None = None  # of the rows' contents, where naming them needed these


class Identities:
    """Names the rows of one run, shard after shard, in input order.

    With `id` columns a row's name is their values; without, it is the hash of the row's content and its
    occurrence number over the whole input, so that equal rows stay apart and a renamed file changes nothing.
    """

    def __init__(self, columns: tuple[str, ...], sentences: bool, remember: bool = True) -> None:
        """`remember`: whether somebody will ask `seen` for the identities; without `id` columns that costs."""
        self._columns = (*columns, SENTENCE_INDEX) if columns and sentences else columns
        self.seen = SeenRows()  # identities
        self._remember = remember
        self._contents = SeenRows()  # content hashes, where those are the identities
        self._occurrences: dict[str, int] = {}  # content hash -> rows so far, for hashes seen more than once

    def name(self, shard: Shard) -> Identified:
        if not self._columns:
            hashes = content_hashes(shard.table)
            ids = self._by_occurrence(hashes)
            if self._remember:
                self.seen.add(self.seen.digests(ids))
            return Identified(shard, pa.array(ids, pa.string()), 0, (), tuple(hashes))
        ids, errors = self._by_columns(shard)
        last = {name: position for position, name in enumerate(ids)}
        superseded = len(ids) - len(last)
        if superseded:
            keep = sorted(last.values())
            shard, ids = _take(shard, keep), [ids[position] for position in keep]
            renumbered = {old: new for new, old in enumerate(keep)}
            errors = {renumbered[old]: text for old, text in errors.items() if old in renumbered}
        digests = self.seen.digests(ids)
        again = np.flatnonzero(self.seen.contains(digests))
        self.seen.add(digests)
        shard = Shard(shard.index, shard.table, shard.source, shard.row, {**errors, **shard.errors}, shard.rejects)
        return Identified(shard, pa.array(ids, pa.string()), superseded, tuple(ids[i] for i in again))

    def _by_occurrence(self, hashes: list[str]) -> list[str]:
        # 64 bits of the hash are enough to see that a row may stand again: a chance hit only costs a counter.
        digests = np.fromiter((int(content[:16], 16) for content in hashes), dtype=np.uint64, count=len(hashes))
        again = self._contents.contains(digests)
        order = np.argsort(digests, kind="stable")
        again[order[1:]] |= digests[order[1:]] == digests[order[:-1]]  # all but the first of equal rows
        self._contents.add(digests)
        names = [content + "-0" for content in hashes]
        for position in np.flatnonzero(again).tolist():
            content = hashes[position]
            number = self._occurrences.get(content, 1)
            self._occurrences[content] = number + 1
            names[position] = f"{content}-{number}"
        return names

    def _by_columns(self, shard: Shard) -> tuple[list[str], dict[int, str]]:
        texts = [_as_text(shard.table.column(name)).to_pylist() for name in self._columns]
        names, errors = [], {}
        for position, values in enumerate(zip(*texts, strict=True)):
            if None in values:
                column = self._columns[values.index(None)]
                place = f"{shard.source[position].as_py()}:{shard.row[position].as_py()}"
                names.append(f"null@{place}")
                errors[position] = f"Row {shard.row[position].as_py()}: id column '{column}' is null; give it a value."
            elif len(values) == 1:
                names.append(values[0])
            else:
                names.append("/".join(value.replace("\\", "\\\\").replace("/", "\\/") for value in values))
        return names, errors


def _take(shard: Shard, keep: list[int]) -> Shard:
    positions = pa.array(keep, pa.int64())
    renumbered = {old: new for new, old in enumerate(keep)}
    errors = {renumbered[old]: text for old, text in shard.errors.items() if old in renumbered}
    table, source, row = shard.table.take(positions), shard.source.take(positions), shard.row.take(positions)
    return Shard(shard.index, table, source, row, errors, shard.rejects)


def content_hashes(table: pa.Table) -> list[str]:
    """A 128-bit BLAKE2b of each row, 32 hex digits: of column names and values, whatever the columns' order."""
    pieces: list[pa.ChunkedArray | pa.Scalar] = []
    empty = pa.scalar("", pa.large_string())
    for name in sorted(table.column_names):
        text = _as_text(table.column(name))
        length = pc.fill_null(pc.cast(pc.binary_length(text), pa.large_string()), pa.scalar("null", pa.large_string()))
        head = pa.scalar(f"{name}=", pa.large_string())
        pieces += [head, length, pa.scalar(":", pa.large_string()), pc.fill_null(text, empty)]
    if not pieces:
        return [hashlib.blake2b(b"", digest_size=16).hexdigest()] * table.num_rows
    rows = pc.binary_join_element_wise(*pieces, empty)
    return [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in rows.to_pylist()]


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as large strings, nulls kept; a faithful one, so that different values have different texts."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_nested(kind):
        values = [
            None if value is None else json.dumps(value, sort_keys=True, default=repr) for value in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(values, pa.large_string())])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        values = [None if value is None else value.hex() for value in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.large_string())])
    return column.cast(pa.large_string())


def content_key(identified: Identified) -> str:
    """Hex digest of all that stands in a shard: column names and types, values, identities, rejected rows."""
    digest = hashlib.sha256()
    shard = identified.shard
    digest.update(str(shard.table.schema.remove_metadata()).encode())
    for row, name in zip(identified.hashes or content_hashes(shard.table), identified.ids.to_pylist(), strict=True):
        digest.update(row.encode())
        digest.update(name.encode())
        digest.update(b"\n")
    digest.update(json.dumps(sorted(shard.errors.items())).encode())
    return digest.hexdigest()
