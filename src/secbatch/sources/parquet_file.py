"""Parquet files: batches of rows in the unified schema of all files, types kept."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from secbatch.errors import InputChangedError, InputError, cause, shown
from secbatch.no_python_object import NO_OBJECT
from secbatch.sources.columns import conversion_error, convert, failing, note, without
from secbatch.sources.input_file import InputFile
from secbatch.sources.piece import RECORD_LIMIT, Piece, reject_piece, rows_bytes, unreadable_piece
from secbatch.sources.reading_faults import is_the_machines
from secbatch.sources.shard import Reject
from secbatch.sources.signatures import no_parquet
from secbatch.sources.streams import UnreadableFileError
from secbatch.sources.used_values import has_dictionary, renumbered, with_used_values, with_used_values_only

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 65_536
BATCH_BYTES = 16 << 20  # of uncompressed data that one batch aims at
WHOLE_BYTES = 64 << 20  # of a row group whose columns are read whole; of a larger one a buffer of each is in memory
LEAST_BUFFER = 64 << 10
ENCRYPTED = "is encrypted; write it again without encryption"
BEGINNING = 512  # bytes that tell what else a file is
FOOTER_END = 8  # bytes of its length and of PAR1
SIGNATURE = 28  # bytes that follow the footer where it is plain and columns are encrypted
DECODED_ROWS = 1024  # decoded at a time: a text that is stored once for all its rows takes its size in each of them
FIRST_BYTES = 64 << 20  # that the first rows of a row group may take, were each text as large as the group
GROWTH = 8  # times as many rows as were decoded before, at most
SKEW = 256  # times the average of those to come, of rows that are to be larger than those before


@dataclass(frozen=True)
class ParquetLayout:
    """What the footer of a file tells."""

    schema: "pa.Schema"
    num_rows: int
    length: int  # bytes of the footer itself
    buffer: int = 0  # bytes of each column that are read at a time; 0: all of a row group's


def _open(file: InputFile, buffer: int = 0) -> "pq.ParquetFile":
    import pyarrow.parquet as pq

    return pq.ParquetFile(file.open(), buffer_size=buffer, pre_buffer=not buffer, page_checksum_verification=True)


def _groups(footer: "pq.FileMetaData") -> "Iterator[pq.RowGroupMetaData]":
    return (footer.row_group(group) for group in range(footer.num_row_groups))


def _buffer(footer: "pq.FileMetaData") -> int:
    """For the largest row group: some writers make one of all rows."""
    sizes = [group.total_byte_size for group in _groups(footer)]
    if max(sizes, default=0) <= WHOLE_BYTES:
        return 0
    return max(LEAST_BUFFER, BATCH_BYTES // max(1, footer.num_columns))


def read_layout(file: InputFile) -> ParquetLayout:
    """Schema and row count by the footer.

    Raises UnreadableFileError for a file that is no whole Parquet file, InputError for two columns of one name.
    """
    import pyarrow as pa

    if file.size == 0:
        raise UnreadableFileError("is empty: it has 0 bytes")
    try:
        with _open(file) as parquet:
            schema, footer = parquet.schema_arrow, parquet.metadata
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) or is_the_machines(error):
            raise
        other = _encrypted(error) or _no_parquet(file)
        raise UnreadableFileError(other or f"is no readable Parquet file ({cause(error)})") from None
    twice = sorted(name for name, times in Counter(schema.names).items() if times > 1)
    if twice:
        listed = ", ".join(f"'{shown(name)}'" for name in twice)
        raise InputError(f"{file.path}: the schema names {listed} more than once; rename the columns")
    if not schema.names:
        raise UnreadableFileError("has no columns")
    held = sum(group.num_rows for group in _groups(footer))
    if held != footer.num_rows:
        raise UnreadableFileError(
            f"is no readable Parquet file (its footer says {footer.num_rows:,} rows, and {held:,} for all row groups)"
        )
    for field in schema:
        if again := _named_twice(field.type):
            raise InputError(f"{file.path}: column '{field.name}' has the field '{again}' twice; rename its fields")
    return ParquetLayout(schema.remove_metadata(), footer.num_rows, footer.serialized_size, _buffer(footer))


def _no_parquet(file: InputFile) -> str | None:
    with file.open() as stored:
        return no_parquet(stored.read(BEGINNING))


def has_encrypted_columns(file: InputFile, layout: ParquetLayout) -> bool:
    """Whether a file whose footer can be read has columns that cannot: then the footer is signed.

    Arrow ends the process when it is asked what the footer says of such a column.
    """
    with file.open() as stored:
        stored.seek(file.size - FOOTER_END)
        return int.from_bytes(stored.read(4), "little") == layout.length + SIGNATURE


def _named_twice(kind: "pa.DataType") -> str | None:
    """A name that two fields of one struct have, at any depth."""
    import pyarrow as pa

    fields = [kind.field(place) for place in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    times = Counter(field.name for field in fields)
    return next(
        (name for name, count in times.items() if count > 1),
        next((again for field in fields if (again := _named_twice(field.type))), None),
    )


class _MiscountError(ValueError):
    """Damaged pages end a row group early: Arrow takes what is no page of data for the end of a column."""


class ParquetReader:
    """The rows of one Parquet file in the columns and types of `schema`."""

    def __init__(self, file: InputFile, layout: ParquetLayout, schema: "pa.Schema") -> None:
        self.file = file
        self.layout = layout
        self.schema = schema
        self._done = 0

    def position(self) -> int:
        share = self._done / self.layout.num_rows if self.layout.num_rows else 1.0
        return int(self.file.size * min(1.0, share))

    def pieces(self) -> Iterator[Piece]:
        import pyarrow as pa

        self._done = 0
        try:
            with _open(self.file, self.layout.buffer) as parquet:
                if not parquet.schema_arrow.remove_metadata().equals(self.layout.schema):
                    raise InputChangedError(
                        f"'{self.file.path}' has other columns than when the input was listed; run again"
                    )
                for group, told in enumerate(_groups(parquet.metadata)):
                    rows = batch_rows(told)
                    before = self._done
                    for table in joined(decoded(parquet, group, min(rows, DECODED_ROWS)), rows):
                        yield self._piece(table)
                    if self._done - before != told.num_rows:
                        raise _MiscountError(
                            f"row group {group + 1} holds {self._done - before:,} of the {told.num_rows:,} rows that "
                            "the footer says"
                        )
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) or is_the_machines(error):
                raise
            encrypted = _encrypted(error)  # some of its columns, and not the footer
            reason = encrypted or (
                f"is corrupt after row {self._done} ({cause(error)}); rows before this place "
                "are kept, fetch the file again for the rest"
            )
            yield unreadable_piece(self.file.path, reason, self.schema)

    def _piece(self, table: "pa.Table") -> Piece:
        import pyarrow as pa

        numbers = np.arange(self._done + 1, self._done + 1 + table.num_rows, dtype=np.int64)
        self._done += table.num_rows
        rejects: list[Reject] = []
        if table.nbytes > RECORD_LIMIT:  # of all rows together
            fits, rejects = self._that_fit(table, numbers)
            table, numbers = table.filter(pa.array(fits)), numbers[fits]
        errors: dict[int, str] = {}
        columns = []
        for field in self.schema:
            values, bad = _valid_text(table.column(field.name).combine_chunks())
            for place in bad:
                note(
                    errors,
                    place,
                    f"{self.file.path}, row {numbers[place]}, column '{field.name}': not valid UTF-8; "
                    "write the file again with valid text",
                )
            converted, bad = convert(values, field.type)
            for place in bad:
                remedy = "write the files with one type for this column"
                row = int(numbers[place])
                shown = _shown(values, place)
                note(errors, place, conversion_error(self.file.path, row, field.name, shown, field.type, remedy))
            columns.append(converted)
        return Piece(self.file.path, pa.Table.from_arrays(columns, schema=self.schema), numbers, errors, rejects)

    def _that_fit(self, table: "pa.Table", numbers: np.ndarray) -> tuple[np.ndarray, list[Reject]]:
        """Which rows [n] are no larger than RECORD_LIMIT, and the rejects of the others."""
        from secbatch.value_bytes import value_bytes

        sizes = np.array([value_bytes(table.slice(place, 1)) for place in range(table.num_rows)])
        fits = sizes <= RECORD_LIMIT
        rejects = []
        for number, size in zip(numbers[~fits], sizes[~fits], strict=True):
            reason = f"row {number} is of {size >> 20:,} MiB, more than {RECORD_LIMIT >> 20} MiB; shorten its values"
            rejects.append(reject_piece(self.file.path, reason, b"", None, None))
        return fits, rejects


def _shown(values: "pa.Array", place: int) -> str:
    """The value at `place` as a sentence quotes it."""
    try:
        return str(values[place])
    except NO_OBJECT:
        return " ".join(str(values.slice(place, 1)).split()).strip("[] ")


def _valid_text(values: "pa.Array") -> "tuple[pa.Array, list[int]]":
    """`values` with null for each entry that is not valid UTF-8, and the positions of those."""
    import pyarrow as pa

    shared = has_dictionary(values.type)

    def valid(start: int, stop: int) -> bool:
        part = values.slice(start, stop - start)
        if len(part) < len(values) and pa.types.is_nested(values.type):
            part = part.take(pa.array(np.arange(len(part))))  # a slice still holds, and validates, all children
            part = with_used_values_only(part) if shared else part
        try:
            part.validate(full=True)
        except pa.ArrowInvalid:
            return False
        return True

    if not shared:
        bad = failing(len(values), valid)
        return (without(values, bad) if bad else values), bad
    if valid(0, len(values)):
        return values, []
    if pa.types.is_dictionary(values.type):
        _, wrong = _valid_text(values.dictionary)
        result = renumbered(values, np.setdiff1d(np.arange(len(values.dictionary)), wrong))
        lost = result.is_null().to_numpy(zero_copy_only=False) & values.is_valid().to_numpy(zero_copy_only=False)
        return result, np.flatnonzero(lost).tolist()
    values = with_used_values_only(values)
    bad = failing(len(values), valid)
    return (with_used_values_only(without(values, bad)) if bad else values), bad


def batch_rows(group: "pq.RowGroupMetaData") -> int:
    """Rows in one batch so that it stays near BATCH_BYTES."""
    if not group.num_rows:
        return BATCH_ROWS
    row_bytes = max(1, group.total_byte_size // group.num_rows)
    return int(max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes)))


def decoded(parquet: "pq.ParquetFile", group: int, most: int) -> "Iterator[pa.RecordBatch]":
    """The rows of a row group, `most` at a time, or fewer where they are large.

    How large is known of those that are decoded only. No text is larger than the group itself: as many rows as fit
    whatever they hold come first. Where the group is said to have more text than rows like those before would make,
    larger ones follow, nobody knows where: fewer, the fewer rows are left for it.
    """
    schema = parquet.schema_arrow  # made anew each time it is asked for
    growing = [place for place, field in enumerate(schema) if not has_dictionary(field.type)]
    told = parquet.metadata.row_group(group)
    first = FIRST_BYTES // max(1, told.total_byte_size)
    names, text_bytes = ([], 0) if first else _texts(told, [schema.field(place).name for place in growing])
    seen_rows = seen_bytes = 0
    for batch in parquet.iter_batches(batch_size=max(1, min(most, first)), row_groups=[group]):
        yield with_used_values(batch)
        seen_rows, seen_bytes = seen_rows + batch.num_rows, seen_bytes + batch.select(names).nbytes
        fit = batch.num_rows * BATCH_BYTES // max(1, batch.select(growing).nbytes)
        bound = most
        if text_bytes - seen_bytes * told.num_rows // max(1, seen_rows) > FIRST_BYTES:
            bound = FIRST_BYTES * (told.num_rows - seen_rows) // (SKEW * (text_bytes - seen_bytes))
        parquet.reader.set_batch_size(max(1, min(most, bound, fit, GROWTH * batch.num_rows)))  # of the next one


def _texts(group: "pq.RowGroupMetaData", names: list[str]) -> tuple[list[str], int]:
    """Those of `names` that have texts, at any depth, and the bytes of these in a row group."""
    found, size = {}, 0
    known = set(names)
    for column in (group.column(place) for place in range(group.num_columns)):
        path = column.path_in_schema
        name = path if path in known else path.partition(".")[0]
        if column.physical_type == "BYTE_ARRAY" and name in known:
            found[name] = True
            size += column.total_uncompressed_size
    return list(found), size


def joined(batches: "Iterator[pa.RecordBatch]", rows: int) -> "Iterator[pa.Table]":
    """The rows of `batches` in tables of about `rows` rows or BATCH_BYTES, whichever comes first."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    held_rows = held_bytes = 0
    for batch in batches:
        held.append(batch)
        held_rows += batch.num_rows
        held_bytes += rows_bytes(pa.Table.from_batches([batch]))
        if held_rows >= rows or held_bytes >= BATCH_BYTES:
            yield from _in_one(held)
            held, held_rows, held_bytes = [], 0, 0
    if held:
        yield from _in_one(held)


def _in_one(batches: "list[pa.RecordBatch]") -> "list[pa.Table]":
    import pyarrow as pa

    try:
        return [pa.Table.from_batches(batches).combine_chunks()]
    except pa.ArrowNotImplementedError:  # different dictionaries inside nested types
        return [pa.Table.from_batches([batch]) for batch in batches]


def _encrypted(error: Exception) -> str | None:
    return ENCRYPTED if "decrypt" in str(error) else None
