"""Rows of one conversation brought together and into order, on disk: no shard splits a conversation."""

import contextlib
import errno
import itertools
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secbatch.errors import InputError, OutputError
from secbatch.sources.columns import check_known
from secbatch.sources.piece import rows_bytes
from secbatch.sources.shard import Shard
from secbatch.sources.slicing import SHARD_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

BUCKETS = 128  # files; memory is bounded by the largest of them
FLUSH_BYTES = 32 << 20  # rows held before they go to the buckets
SOURCE, ROW, SEQUENCE, ERROR = "\0source", "\0row", "\0sequence", "\0error"  # names no input column has


def group_by_conversation(
    shards: Iterator[Shard],
    id_column: str,
    order_column: str,
    shard_rows: Callable[[int], int],
    spill_dir: Path,
    superseded: Callable[[], np.ndarray] | None = None,
    key: str = "conversation",
) -> Iterator[Shard]:
    """The rows of `shards` with each conversation whole, in one shard, in the order of `order_column`.

    Turns are ordered as numbers where all of a conversation's are numbers, as text otherwise; equal and
    missing turns by their place in the input, missing ones last. A row whose id is null or empty is a
    conversation of its own. All input is read before the first row comes out, to files under `spill_dir` where
    it is more than FLUSH_BYTES (less stays in memory, and conversations come in the order of their first rows);
    shards without rows carry the rejects on in the meantime. The files are removed at the end.
    `superseded`, asked once all input is read, names rows that are left out: their places in the whole input,
    ascending. `key`: of the job, to be named where a column does not do.
    Deterministic. Raises InputError (no such column) and OutputError (disk full).
    """
    index = 0
    spill = Path(tempfile.mkdtemp(prefix="conversations-", dir=spill_dir))
    try:
        buckets = _Buckets(spill, id_column, key)
        for shard in shards:
            for column, own in ((id_column, "id"), (order_column, "order")):
                check_known(column, tuple(shard.table.column_names), f"{key}.{own}")
            if shard.rejects:
                empty = shard.table.slice(0, 0)
                yield Shard(index, empty, shard.source.slice(0, 0), shard.row.slice(0, 0), {}, shard.rejects)
                index += 1
            buckets.add(shard)
        buckets.finish()
        if superseded:
            buckets.left_out = superseded()
        lost = len(buckets.left_out)  # told with the first shard
        pending: list[pa.Table] = []
        rows = size = 0
        for table, starts in buckets.conversations(id_column, order_column):
            bounds = [*starts.tolist(), table.num_rows]
            first = 0  # start of the conversations of this bucket that are not in a shard yet
            row_bytes = rows_bytes(table) / max(1, table.num_rows)
            for stop in bounds[1:]:
                full = rows + stop - first >= max(1, shard_rows(index))
                if full or size + (stop - first) * row_bytes >= SHARD_BYTES:
                    pending.append(table.slice(first, stop - first))
                    yield _shard(index, pending, lost)
                    index += 1
                    pending, rows, size, first, lost = [], 0, 0, stop, 0
            if first < table.num_rows:
                pending.append(table.slice(first))
                rows += table.num_rows - first
                size += int((table.num_rows - first) * row_bytes)
        if pending:
            yield _shard(index, pending, lost)
    except OSError as error:
        if error.errno != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise OutputError(
            f"the disk under {spill_dir} is full while conversations are grouped; make room for a copy of the input"
        ) from None
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _shard(index: int, tables: "list[pa.Table]", superseded: int) -> Shard:
    import pyarrow as pa

    table = pa.concat_tables(tables).combine_chunks()
    errors = (
        {place: text for place, text in enumerate(table.column(ERROR).to_pylist()) if text is not None}
        if table.column(ERROR).null_count < table.num_rows
        else {}
    )
    source = pa.concat_arrays(table.column(SOURCE).chunks).dictionary_encode()
    row = pa.concat_arrays(table.column(ROW).chunks)
    return Shard(index, table.drop_columns([SOURCE, ROW, SEQUENCE, ERROR]), source, row, errors, superseded=superseded)


class _Buckets:
    """Rows on disk, all of one conversation in one file."""

    def __init__(self, folder: Path, id_column: str, key: str) -> None:
        self.folder = folder
        self._id, self._key = id_column, key
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._next = 0  # place of the next row in the whole input
        self.left_out = np.empty(0, np.int64)  # places of rows that are not given out, ascending

    def add(self, shard: Shard) -> None:
        import pyarrow as pa

        if not shard.num_rows:
            return
        places = np.arange(self._next, self._next + shard.num_rows, dtype=np.int64)
        self._next += shard.num_rows
        errors = [shard.errors.get(i) for i in range(shard.num_rows)] if shard.errors else None
        table = shard.table.append_column(SOURCE, shard.source.cast(pa.string()))
        table = table.append_column(ROW, shard.row).append_column(SEQUENCE, pa.array(places))
        table = table.append_column(ERROR, pa.array(errors or [None] * shard.num_rows, pa.string()))
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._held:
            return
        table = pa.concat_tables(self._held).unify_dictionaries()
        self._held, self._bytes = [], 0
        bucket = _bucket_of(table.column(self._id), table.column(SEQUENCE), self._key)
        order = np.argsort(bucket, kind="stable")
        ordered = bucket[order]
        cuts = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
        for start, stop in itertools.pairwise(cuts):
            number = int(ordered[start])
            writer = self._writers.get(number)
            if writer is None:
                options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=False)
                path = str(self._path(number))
                writer = self._writers[number] = pa.ipc.new_stream(path, table.schema, options=options)
            writer.write_table(table.take(pa.array(order[start:stop])).combine_chunks())

    def finish(self) -> None:
        if self._writers:  # what fits in memory as a whole stays there, and so in the order of the input
            self._flush()
        for writer in self._writers.values():
            writer.close()

    def _path(self, number: int) -> Path:
        return self.folder / f"bucket-{number:03d}.arrow"

    def conversations(self, id_column: str, order_column: str) -> "Iterator[tuple[pa.Table, np.ndarray]]":
        """Each bucket's rows, conversation after conversation, and where each conversation starts."""
        import pyarrow as pa

        if self._held:
            table = self._without_left_out(pa.concat_tables(self._held).unify_dictionaries().combine_chunks())
            yield _ordered(table, id_column, order_column, self._key)
        for number in sorted(self._writers):
            path = self._path(number)
            with pa.OSFile(str(path)) as file:
                table = pa.ipc.open_stream(file).read_all().unify_dictionaries().combine_chunks()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            table = self._without_left_out(table)
            if table.num_rows:
                yield _ordered(table, id_column, order_column, self._key)

    def _without_left_out(self, table: "pa.Table") -> "pa.Table":
        import pyarrow as pa

        places = table.column(SEQUENCE).to_numpy()
        return table.filter(pa.array(~np.isin(places, self.left_out))) if len(self.left_out) else table


def _plain_ids(column: "pa.ChunkedArray", key: str) -> "pa.ChunkedArray":
    """Conversation ids as text; null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from secbatch.row_hash import as_text

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        texts = (as_text(column) if isinstance(column.type, pa.BaseExtensionType) else column).cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise InputError(f"{key}.id: a column of type {column.type} cannot name a conversation") from None
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _bucket_of(ids: "pa.ChunkedArray", places: "pa.ChunkedArray", key: str) -> np.ndarray:
    """int64 [n]: the bucket of each row by its conversation; rows without one by their place in the input."""
    encoded = _plain_ids(ids, key).combine_chunks().dictionary_encode()
    hashes = np.array(
        [zlib.crc32(text.encode("utf-8")) % BUCKETS for text in encoded.dictionary.to_pylist()] or [0], dtype=np.int64
    )
    alone = places.to_numpy() % BUCKETS
    codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    missing = encoded.indices.is_null().to_numpy(zero_copy_only=False)
    return np.asarray(np.where(missing, alone, hashes[codes]))


def _ordered(table: "pa.Table", id_column: str, order_column: str, key: str) -> "tuple[pa.Table, np.ndarray]":
    """Rows by (first appearance of their conversation, turn, place in the input), and the conversations' starts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = table.column(SEQUENCE).to_numpy()
    encoded = _plain_ids(table.column(id_column), key).combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = codes < 0
    codes[alone] = len(encoded.dictionary) + np.arange(int(alone.sum()))
    first = np.full(int(codes.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, codes, places)
    turns = _turn_ranks(table.column(order_column), codes, key)
    keys = pa.table({"first": first[codes], "turn": turns, "place": places})
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    sorted_first = first[codes][order.to_numpy()]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(sorted_first)) + 1])
    return table.take(order), starts


def _turn_ranks(column: "pa.ChunkedArray", codes: np.ndarray, key: str) -> np.ndarray:
    """int64 [n]: ranks that order the turns inside each conversation; missing turns come last."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return _ranks(column, key)
    text = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), pa.scalar(None, column.type), column)
    number = pc.match_substring_regex(text, r"^\s*[+-]?\d{1,15}(\.\d{1,9})?\s*$")
    is_number = pc.fill_null(number, True).to_numpy()
    texts = _ranks(text, key)
    if not is_number.any():
        return texts
    numeric = pc.if_else(number, pc.utf8_trim_whitespace(text), pa.scalar(None, column.type))
    numbers = _ranks(pc.replace_substring_regex(numeric, r"^\+", "").cast(pa.decimal128(26, 9)), key)
    all_numbers = np.ones(int(codes.max()) + 1, dtype=bool)  # [conversations]
    np.logical_and.at(all_numbers, codes, is_number)
    return np.where(all_numbers[codes], numbers, texts)


def _ranks(column: "pa.ChunkedArray", key: str) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    try:
        ranks = pc.rank(column, sort_keys="ascending", tiebreaker="dense")
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        raise InputError(f"{key}.order: a column of type {column.type} has no order") from None
    return np.asarray(ranks.to_numpy()).astype(np.int64)
