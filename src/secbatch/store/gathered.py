"""Small parts that are written together: their rows are gathered from the files, each of which is read once.

A checkpoint of many partitions has a few rows of each: to open it, to read a row group, or only to hand on a table
costs more than these rows do.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from secbatch.store.pieces import Piece, PieceKeys, conformed, row_groups
from secbatch.store.row_keys import COLUMNS, RowKeys
from secbatch.value_bytes import read_back_alike

# Of parts that are written together: bytes of the parts, rows, and parts.
BATCH_BYTES, BATCH_ROWS, BATCH_PARTS = 16 << 20, 1 << 16, 256
GATHERED_BYTES = 64 << 20  # in memory, where parts are much smaller than their rows


@dataclass(frozen=True)
class Gathered:
    """The rows of a group of pieces, in the columns of a part, and their keys."""

    table: pa.Table
    keys: RowKeys


def batches(groups: Iterable[list[Piece]]) -> Iterator[list[list[Piece]]]:
    """The groups of pieces, each of which makes a part, by batches of small ones."""
    batch: list[list[Piece]] = []
    size = rows = 0
    for group in groups:
        more, some = sum(piece.size for piece in group), sum(piece.rows for piece in group)
        if batch and (size + more > BATCH_BYTES or rows + some > BATCH_ROWS or len(batch) == BATCH_PARTS):
            yield batch
            batch, size, rows = [], 0, 0
        batch.append(group)
        size, rows = size + more, rows + some
    if batch:
        yield batch


def gathered(groups: Sequence[list[Piece]], schema: pa.Schema) -> Iterator[Gathered | None]:
    """The rows of each group in its turn; None for one that is to be read by itself, piece by piece.

    That is a group which is alone, or whose rows, handed on together, would not make the same file to the last byte.
    """
    alike = all(read_back_alike(field.type) for field in schema)
    yield from _gathered(groups, schema) if alike else [None] * len(groups)


def _gathered(groups: Sequence[list[Piece]], schema: pa.Schema) -> Iterator[Gathered | None]:
    if len(groups) < 2:
        yield from [None] * len(groups)
        return
    found = _Found(schema)
    if not all(found.add(pieces) for pieces in _by_file(groups)):  # too much: half of them at a time
        del found  # what was read by now is not held meanwhile
        half = len(groups) // 2
        yield from _gathered(groups[:half], schema)
        yield from _gathered(groups[half:], schema)
        return
    table, keys = found.taken([piece for group in groups for piece in group])
    start = 0
    for group in groups:
        stop = start + sum(piece.rows for piece in group)
        done = {name: keys.column(f"done {name}")[start:stop] for name in PieceKeys(group).tasks}
        own = RowKeys(
            keys.ids[start:stop], keys.content[start:stop], keys.place[start:stop], keys.flags[start:stop], done
        )
        yield Gathered(table.slice(start, stop - start), own)
        start = stop


def _by_file(groups: Sequence[list[Piece]]) -> list[list[Piece]]:
    files: dict[str, list[Piece]] = {}
    for group in groups:
        for piece in group:
            files.setdefault(str(piece.file), []).append(piece)
    return list(files.values())


class _Found:
    """Rows and keys of pieces, in the order in which they were read."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._tables: list[pa.Table] = []
        self._keys: list[RowKeys] = []
        self._places: dict[int, np.ndarray] = {}  # id of a piece -> int64 [n]: its rows among those read
        self._rows = self._size = 0

    def add(self, pieces: list[Piece]) -> bool:
        """Reads the pieces of one file; False where that is too much for the memory."""
        spans = _joined((piece.start, piece.stop) for piece in pieces)
        starts = [start for start, _ in spans]
        before = np.cumsum([self._rows, *(stop - start for start, stop in spans)])
        for piece in pieces:
            span = bisect_right(starts, piece.start) - 1
            first = int(before[span]) + piece.start - starts[span]
            rows = np.arange(first, first + piece.stop - piece.start)
            self._places[id(piece)] = rows if piece.taken is None else rows[piece.taken]
        changed = [piece for piece in pieces if piece.changed]
        assert not changed or len(pieces) == 1  # a part, whole: checkpoints stay as they are
        for start, stop in spans:
            keys = pieces[0].keys.read(start, stop)
            for piece in changed:
                flags, place = (piece.changed_keys(name, keys.column(name), 0) for name in ("flags", "place"))
                keys = replace(keys, flags=flags, place=place)
            self._keys.append(keys)
            self._size += self._keys[-1].nbytes
        for first, table in row_groups(pieces[0].file, self._schema, spans):
            for piece in changed:
                table = piece.changed_rows(table, first - piece.start)
            # Copied: rows amid a row group must not keep all of it in memory.
            self._tables.append(conformed(table, self._schema).take(pa.array(np.arange(table.num_rows))))
            self._size += self._tables[-1].nbytes
            if self._size > GATHERED_BYTES:
                return False
        self._rows = int(before[-1])
        return True

    def taken(self, pieces: list[Piece]) -> tuple[pa.Table, RowKeys]:
        """The rows of the pieces, one after another."""
        rows = np.concatenate([self._places[id(piece)] for piece in pieces])
        table = pa.concat_tables(self._tables).take(pa.array(rows))
        tasks = list(dict.fromkeys(name for keys in self._keys for name in keys.tasks))
        columns = {
            name: np.concatenate([keys.column(name) for keys in self._keys])[rows]
            for name in (*COLUMNS, *(f"done {task}" for task in tasks))
        }
        done = {task: columns[f"done {task}"] for task in tasks}
        return table, RowKeys(columns["ids"], columns["content"], columns["place"], columns["flags"], done)


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbouring spans of rows as one, in their order."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            start, stop = joined[-1][0], max(stop, joined.pop()[1])
        joined.append((start, stop))
    return joined
