"""Clean CSV text to string columns, vectorised: the fast path.

What it accepts, `csv_records.parse_record` would parse to the same fields; where it meets anything else it
stops before that record and leaves it to the careful parser.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from secbatch.sources.csv_records import CR, QUOTE, Dialect

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Block:
    """The clean records at the start of a window."""

    columns: "list[pa.Array]"  # string, one for each column of the file
    num_rows: int
    end: int  # bytes of the window that are consumed
    clean: bool  # False: the record at `end` is for the careful parser, or does not end in this window


def scan(window: bytes, width: int, dialect: Dialect) -> Block:
    """All records of `width` fields from the start of `window` (which starts with a record) on.

    Blank lines are skipped. Stops before the first record that has another number of fields, unusual quotes
    or invalid UTF-8, and before one that is not closed by a line end.
    """
    data = np.frombuffer(window, dtype=np.uint8)
    separators, clean, doubled = _separators(data, window, dialect)
    ends_line = data[separators] == dialect.line_end[0]
    last = int(np.flatnonzero(ends_line)[-1]) + 1 if ends_line.any() else 0
    clean = clean and last > 0
    separators, ends_line = separators[:last], ends_line[:last]
    starts = np.empty(last, dtype=np.int64)
    starts[:1] = 0
    starts[1:] = separators[:-1] + 1
    stops = _without_cr(data, starts, separators, ends_line, dialect)

    record_last = np.flatnonzero(ends_line)  # index of each record's last separator
    record_first = np.empty_like(record_last)
    record_first[:1] = 0
    record_first[1:] = record_last[:-1] + 1
    counts = record_last - record_first + 1
    blank = (counts == 1) & (stops[record_last] == starts[record_last])
    wrong = np.flatnonzero((counts != width) & ~blank)
    if len(wrong):
        clean = False
        record_last, record_first, blank = (a[: wrong[0]] for a in (record_last, record_first, blank))
    invalid = _first_invalid_utf8(window, int(separators[record_last[-1]]) + 1 if len(record_last) else 0)
    if invalid is not None:
        clean = False
        fine = int(np.searchsorted(separators[record_last], invalid))  # records that end before it
        record_last, record_first, blank = record_last[:fine], record_first[:fine], blank[:fine]
    if not len(record_last):
        return Block([], 0, 0, False)
    end = int(separators[record_last[-1]]) + 1
    kept = record_first[~blank]
    fields = kept[:, None] + np.arange(width)[None, :]  # [rows, width] indices of separators
    return Block(_columns(window, data, starts[fields], stops[fields], doubled), len(kept), end, clean)


def _separators(data: np.ndarray, window: bytes, dialect: Dialect) -> tuple[np.ndarray, bool, np.ndarray | None]:
    """(positions of delimiters and line ends outside quotes, up to the first unusual quote; whether there is no
    such quote; positions of doubled quotes, or None where no field is quoted).

    Quotes are usual when each opening one starts a field and each closing one ends a field; a doubled quote
    reads as a closing and an opening one side by side.
    """
    delimiter, line_end = dialect.delimiter[0], dialect.line_end[0]
    structural = (data == delimiter) | (data == line_end)
    if window.find(b'"') < 0:
        return np.flatnonzero(structural), True, None
    quotes = np.flatnonzero(data == QUOTE)
    before = data[quotes - 1]
    at_start = (before == delimiter) | (before == line_end) | (quotes == 0)
    if not at_start.any():  # 5" disk: no field is quoted, the quotes are ordinary characters
        return np.flatnonzero(structural), True, None
    separators = np.flatnonzero(structural)
    separators = separators[np.searchsorted(quotes, separators) & 1 == 0]  # those outside quotes
    opening, closing = quotes[0::2], quotes[1::2]
    starts_field = at_start[0::2].copy()
    doubled = opening[1:] == closing[: len(opening) - 1] + 1
    starts_field[1:] |= doubled
    after_at = closing + 1
    known = after_at < len(data)  # a quote that ends the window waits for what follows
    after = data[np.minimum(after_at, len(data) - 1)]
    ends_field = (after == delimiter) | (after == line_end) | (after == QUOTE)
    if line_end == 0x0A:
        next_at = np.minimum(after_at + 1, len(data) - 1)
        ends_field |= (after == CR) & (data[next_at] == line_end) & (after_at + 1 < len(data))
    unusual = np.concatenate([opening[~starts_field], closing[~(ends_field & known)]])
    if len(unusual):
        separators = separators[: int(np.searchsorted(separators, unusual.min()))]
    return separators, not len(unusual), opening[1:][doubled]


def _without_cr(
    data: np.ndarray, starts: np.ndarray, separators: np.ndarray, ends_line: np.ndarray, dialect: Dialect
) -> np.ndarray:
    """Ends of the fields: CRs before an LF belong to the line end."""
    stops = separators.copy()
    if dialect.line_end == b"\n":
        while (trailing := ends_line & (stops > starts) & (data[np.maximum(stops - 1, 0)] == CR)).any():
            stops -= trailing
    return stops


def _first_invalid_utf8(window: bytes, stop: int) -> int | None:
    """Position of the first byte below `stop` that is not valid UTF-8, or None."""
    if stop == 0 or window.isascii():
        return None
    import pyarrow as pa

    whole = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, stop])), pa.py_buffer(window))
    try:
        whole.validate(full=True)  # as strict, and other threads go on meanwhile
        return None
    except pa.ArrowInvalid:
        pass
    try:
        window[:stop].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _columns(
    window: bytes, data: np.ndarray, starts: np.ndarray, stops: np.ndarray, doubled: np.ndarray | None
) -> "list[pa.Array]":
    """String columns from the bounds of their fields, int64 [rows, width], without a loop over rows.

    The window is read as one long array of strings: field, gap, field, gap…; a column is every n-th of them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, width = starts.shape
    unescaped: set[int] = set()  # columns with doubled quotes
    starts, stops = starts.ravel(), stops.ravel()
    if doubled is not None:
        fields = np.searchsorted(stops, doubled, side="right")
        unescaped = set((fields[fields < len(stops)] % width).tolist())
        quoted = (stops > starts) & (data[np.minimum(starts, len(data) - 1)] == QUOTE)
        starts = starts + quoted
        stops = stops - quoted
    bounds = np.zeros(2 * len(starts) + 1, dtype=np.int32)
    bounds[0:-1:2] = starts
    bounds[1::2] = stops
    bounds[-1] = stops[-1] if len(stops) else 0
    strings = pa.StringArray.from_buffers(2 * len(starts), pa.py_buffer(bounds), pa.py_buffer(window))
    every = np.arange(rows, dtype=np.int64) * (2 * width)
    columns = []
    for column in range(width):
        values = strings.take(pa.array(every + 2 * column))
        columns.append(pc.replace_substring(values, '""', '"') if column in unescaped else values)
    return columns
