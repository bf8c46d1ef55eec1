"""CSV files: clean stretches through the fast path, damaged ones through the careful parser.

How the reader finds its feet after a broken record: it goes back to the line where the record started and
takes up again at the next physical line that starts a record with the right number of fields. What lies
between goes, whole, to the rejects.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from secbatch.errors import InputChangedError
from secbatch.sources.columns import conversion_error, from_text, note
from secbatch.sources.csv_blocks import scan
from secbatch.sources.csv_cursor import Cursor
from secbatch.sources.csv_header import CsvLayout, delimiter_name, header_digest, without_delimiter
from secbatch.sources.csv_records import Fault, Record, line_stop
from secbatch.sources.input_file import InputFile
from secbatch.sources.piece import RECORD_LIMIT, Piece, reject_piece
from secbatch.sources.shard import RAW_LIMIT, Reject
from secbatch.sources.streams import Utf8Stream, broken_off
from secbatch.sources.undecodable import what_is_wrong

if TYPE_CHECKING:
    import pyarrow as pa

CAREFUL = 64 << 10  # bytes parsed with care once something is wrong, before the fast path is tried again
NEVER_CLOSED = "a quote opens a field and never closes it; close it, or double it and quote the field"
INTERIOR_LINES = 50  # lines looked at to tell a long text from rows that a stray quote swallowed
COLUMN_BYTES = 512  # of a window, at least, for each column
WINDOW = 1 << 20  # what is made of it stays in the caches
FIRST_WINDOW = 256 << 10
LARGEST_BLOCK = 64 << 20


class CsvReader:
    """The rows of one CSV file in the columns of `schema`; its own columns may stand in another order."""

    def __init__(self, file: InputFile, layout: CsvLayout, schema: "pa.Schema", encoding: str | None) -> None:
        self.file = file
        self.layout = layout
        self.schema = schema
        self.width = len(layout.names)
        self._encoding = encoding
        # Largest window of the fast path. Each window has a price for each column: wide rows get larger ones.
        self._block = max(WINDOW, min(self.width * COLUMN_BYTES, LARGEST_BLOCK))
        self._row = 0  # number of the last record, rejected ones counted
        self._stream: Utf8Stream | None = None
        self._cursor: Cursor | None = None

    def position(self) -> int:
        cursor = self._cursor
        return cursor.stream.position(cursor.offset - cursor.stream.skipped) if cursor else 0

    def pieces(self) -> Iterator[Piece]:
        self._row = 0
        self._stream = stream = Utf8Stream(self.file, self._encoding)
        try:
            self._cursor = cursor = Cursor(stream, self.layout.dialect)
            cursor.fill(self.layout.header_end)
            if header_digest(cursor.text[cursor.place : cursor.place + self.layout.header_end]) != self.layout.digest:
                raise InputChangedError(
                    f"'{self.file.path}' has another header than when the input was listed; run again"
                )
            cursor.advance(min(self.layout.header_end, cursor.left))
            yield from self._rows(cursor)
        finally:
            stream.close()

    def _rows(self, cursor: Cursor) -> Iterator[Piece]:
        window = min(FIRST_WINDOW, self._block)  # the first rows are waited for
        while True:
            cursor.fill(window)
            if not cursor.left:
                break
            text = cursor.text[cursor.place : cursor.place + window]
            block = scan(text, self.width, self.layout.dialect)
            cursor.advance(block.end)
            if block.num_rows:
                numbers = np.arange(self._row + 1, self._row + 1 + block.num_rows, dtype=np.int64)
                self._row += block.num_rows
                yield self._piece(block.columns, numbers, [])
            if block.clean:
                window = min(2 * window, self._block)
                continue
            if piece := self._carefully(cursor):
                yield piece
                del piece
            if self._cut_off(cursor):
                break
            window = min(CAREFUL, self._block)
        if stream_failure := cursor.stream.failure:
            raw = cursor.text[cursor.place :]
            reject = self._reject(cursor, broken_off(stream_failure), raw, whole_file=True)
            yield Piece(self.file.path, self.schema.empty_table(), np.empty(0, np.int64), rejects=[reject])

    def _cut_off(self, cursor: Cursor) -> bool:
        """Whether all that is left is half a record of a file that breaks off."""
        return cursor.ended and cursor.stream.failure is not None and not self._line_is_whole(cursor)

    def _line_is_whole(self, cursor: Cursor) -> bool:
        return cursor.text.find(self.layout.dialect.line_end, cursor.place) >= 0

    def _carefully(self, cursor: Cursor) -> Piece | None:
        """At least one record, and some more text, record by record.

        No generator, which would hold what the columns of a large record were made of until the next one is wanted.
        """
        rows: list[list[bytes]] = []
        numbers: list[int] = []
        rejects: list[Reject] = []
        until = cursor.offset + CAREFUL
        while cursor.offset < until:
            record = cursor.record()
            if not cursor.left or self._cut_off(cursor):
                break
            raw = cursor.text[cursor.place : cursor.place + record.end]
            if record.fault is None and self._is_blank(record, raw):
                cursor.advance(record.end)
                continue
            self._row += 1
            fields = without_delimiter(record.fields, self.layout.dialect)
            if record.fault is None and len(fields) == self.width and not self._parity_lost(cursor, record):
                bad = None if raw.isascii() else self._undecodable(fields)
                if bad is None:
                    rows.append(fields)
                    numbers.append(self._row)
                else:
                    rejects.append(self._reject(cursor, bad, raw))
                cursor.advance(record.end)
            else:
                rejects += self._broken(cursor, record)
        if rows or rejects:
            import pyarrow as pa

            columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(self.width)]
            return self._piece(columns, np.array(numbers, dtype=np.int64), rejects)
        return None

    def _is_blank(self, record: Record, raw: bytes) -> bool:
        if len(record.fields) != 1 or b'"' in raw:
            return False
        return not record.fields[0] or (self.width > 1 and not record.fields[0].strip(b" \t"))

    def _undecodable(self, fields: list[bytes]) -> str | None:
        for name, value in zip(self.layout.names, fields, strict=True):
            try:
                value.decode("utf-8")
            except UnicodeDecodeError as error:
                recoded_from = self._stream.recoded_from if self._stream else None
                return f"column '{name}' {what_is_wrong(value, error.start, recoded_from)}"
        return None

    def _broken(self, cursor: Cursor, record: Record) -> Iterator[Reject]:
        """The rejects of a record that is none; moves the cursor past them."""
        if record.fault is None and not self._swallowed_rows(cursor, record):
            yield self._reject(cursor, self._reason(record), cursor.text[cursor.place : cursor.place + record.end])
            cursor.advance(record.end)
            return
        reason = NEVER_CLOSED if record.fault is None else self._reason(record)
        end = self._line_after(cursor, 0)
        quotes = counted = 0  # quotes in the piece, and how far they are counted
        while True:
            if end < 0:  # a line without an end in sight
                yield self._reject(cursor, reason, cursor.text[cursor.place : cursor.place + RAW_LIMIT])
                cursor.skip_line()
                return
            if end >= RAW_LIMIT:  # kept whole, in as many pieces as it takes
                yield self._reject(cursor, reason, cursor.text[cursor.place : cursor.place + end])
                cursor.advance(end)
                end = counted = 0
            if end >= cursor.left and cursor.ended:
                break
            record = cursor.record(end)
            quotes += cursor.text.count(b'"', cursor.place + counted, cursor.place + end)
            counted = end
            closed = quotes % 2 == 0
            if self._on_its_feet(record, closed) or (record.fault is not None and self._damaged_row(cursor, end)):
                break
            end = self._line_after(cursor, end)
        if end:
            yield self._reject(cursor, reason, cursor.text[cursor.place : cursor.place + end])
            cursor.advance(end)

    def _on_its_feet(self, record: Record, closed: bool = False) -> bool:
        """Whether a broken piece ends here: a record of the right width, whose quotes are not the broken piece's
        (each of that has its other one: `closed`)."""
        whole = record.fault is None and len(record.fields) == self.width
        return whole and (closed or not record.literal_quote)

    def _damaged_row(self, cursor: Cursor, ahead: int) -> bool:
        """Whether a line that is no record looks like one row: several damaged rows are several rejects."""
        start = cursor.place + ahead
        stop, _ = line_stop(cursor.text, start, self.layout.dialect)
        return cursor.text.count(self.layout.dialect.delimiter, start, stop) == self.width - 1

    def _line_after(self, cursor: Cursor, ahead: int) -> int:
        """Start of the physical line after the one at `place + ahead`, relative to `place`; -1 if it is too
        long."""
        while True:
            stop, following = line_stop(cursor.text, cursor.place + ahead, self.layout.dialect)
            if following > stop or cursor.ended:
                return following - cursor.place
            if cursor.left - ahead > RECORD_LIMIT:
                return -1
            cursor.grow()

    def _swallowed_rows(self, cursor: Cursor, record: Record) -> bool:
        """Whether a properly quoted record of the wrong width looks as if two stray quotes made it.

        Then the lines inside it are rows, or one of them holds a quote and is a row even so; in a long text with
        line ends they are not.
        """
        if not record.multiline:
            return False
        if self._row_with_quotes_inside(cursor, record):
            return True
        lines = [line for line, _ in self._interior_lines(cursor, record)[:-1]]
        delimiter = self.layout.dialect.delimiter
        rows = sum(b'"' not in line and line.count(delimiter) == self.width - 1 for line in lines)
        return len(lines) > 0 and 2 * rows >= len(lines)

    def _parity_lost(self, cursor: Cursor, record: Record) -> bool:
        """Whether a record of the right width took the quotes of another one for its own: it has a quote left.

        Then its first line is a row, too, which never closes its quote; a piece of a row is the record's own beginning.
        """
        lost = record.multiline and record.literal_quote and self._damaged_row(cursor, 0)
        return lost and self._row_with_quotes_inside(cursor, record)

    def _row_with_quotes_inside(self, cursor: Cursor, record: Record) -> bool:
        """Whether a clean record with quoted fields starts at a line inside a multi-line record.

        Such a line can hardly read well both from its start and from inside a quoted field.
        """
        for line, ahead in self._interior_lines(cursor, record):
            if b'"' in line:
                inner = cursor.record(ahead)
                if inner.quoted and self._on_its_feet(inner):
                    return True
        return False

    def _interior_lines(self, cursor: Cursor, record: Record) -> list[tuple[bytes, int]]:
        """(line, its start relative to `place`) of the lines after a record's first one: some, and the last."""
        dialect = self.layout.dialect
        end = cursor.place + record.end
        last = cursor.text.rfind(dialect.line_end, cursor.place, end - (1 if record.complete else 0)) + 1
        _, place = line_stop(cursor.text, cursor.place, dialect)
        lines: list[tuple[bytes, int]] = []
        while place < last and len(lines) < INTERIOR_LINES:
            stop, following = line_stop(cursor.text, place, dialect)
            lines.append((cursor.text[place:stop], place - cursor.place))
            place = following
        lines.append((cursor.text[last:end], last - cursor.place))
        return lines

    def _reason(self, record: Record) -> str:
        if record.fault is Fault.STRAY:
            return "a quoted field goes on after its closing quote; double the quotes inside a quoted field"
        if record.fault is Fault.OPEN:
            return NEVER_CLOSED
        if record.fault is Fault.LONG:
            return f"the record is longer than {RECORD_LIMIT >> 20} MiB; a quote may be open"
        count = len(record.fields)
        fields = "field" if count == 1 else "fields"
        return (
            f"{count} {fields} where the header has {self.width}; quote a field that holds "
            f"{delimiter_name(self.layout.dialect.delimiter)}, a quote or a line end"
        )

    def _reject(self, cursor: Cursor, reason: str, raw: bytes, whole_file: bool = False) -> Reject:
        offset = None if cursor.stream.recoded else cursor.offset
        return reject_piece(self.file.path, reason, cursor.stream.as_stored(raw), cursor.line, offset, whole_file)

    def _piece(self, columns: "list[pa.Array]", numbers: np.ndarray, rejects: list[Reject]) -> Piece:
        table, errors = typed_table(
            self.file.path, dict(zip(self.layout.names, columns, strict=True)), self.schema, numbers
        )
        return Piece(self.file.path, table, numbers, errors, rejects)


def typed_table(
    file: str, columns: "Mapping[str, pa.Array]", schema: "pa.Schema", numbers: np.ndarray
) -> "tuple[pa.Table, dict[int, str]]":
    """String columns [n] as a table of `schema`, and a sentence for each row with a value that does not fit."""
    import pyarrow as pa

    errors: dict[int, str] = {}
    typed = []
    for field in schema:
        values = columns[field.name]
        converted, bad = from_text(values, field.type)
        for place in bad:
            note(errors, place, conversion_error(file, int(numbers[place]), field.name, values[place], field.type))
        typed.append(converted)
    return pa.Table.from_arrays(typed, schema=schema), errors
