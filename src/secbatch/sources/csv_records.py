"""CSV records one at a time, with all the care that damaged files need (RFC 4180 and what lies beside it)."""

import re
from dataclasses import dataclass
from enum import Enum

QUOTE = 0x22
TO_CLOSING_QUOTE = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')  # possessive: nothing is tried twice
CR = 0x0D


@dataclass(frozen=True)
class Dialect:
    """How a file is laid out: bytes of one character each."""

    delimiter: bytes
    line_end: bytes  # b"\n" (CRs before it belong to it) or b"\r" for files that know no LF


class Fault(Enum):
    """What keeps a piece of text from being a record."""

    OPEN = "open"  # the text ends inside a quoted field
    STRAY = "stray"  # a quoted field goes on after its closing quote
    LONG = "long"  # longer than the limit


@dataclass(slots=True)
class Record:
    """One parsed record, or the reason why there is none."""

    fields: list[bytes]
    end: int  # where the next record starts
    fault: Fault | None = None
    complete: bool = True  # a line end closed it (False: the text ended)
    multiline: bool = False  # a line end stands inside quotes
    literal_quote: bool = False  # an unquoted field ends with a quote that none before it opens: often the tail of a
    # broken one
    quoted: bool = False  # at least one field is quoted


def line_stop(text: bytes, start: int, dialect: Dialect) -> tuple[int, int]:
    """(end of the line's content, start of the next line) of the physical line at `start`."""
    found = text.find(dialect.line_end, start)
    if found < 0:
        return len(text), len(text)
    stop = found
    if dialect.line_end == b"\n":
        while stop > start and text[stop - 1] == CR:  # several where a program wrote CRLF through a text file
            stop -= 1
    return stop, found + 1


def parse_record(text: bytes, start: int, dialect: Dialect, limit: int) -> Record:
    """The record that starts at `start`.

    A field is quoted when its first character is a quote; a quote anywhere else is an ordinary character.
    After a closing quote only a delimiter or a line end may follow.
    """
    stop, following = line_stop(text, start, dialect)
    complete = following > stop
    if text.find(b'"', start, stop) < 0:
        if stop - start > limit:
            return Record([], following, Fault.LONG, complete)
        return Record(text[start:stop].split(dialect.delimiter), following, None, complete)
    return _parse_quoted(text, start, stop, following, dialect, limit)


def _parse_quoted(text: bytes, start: int, stop: int, following: int, dialect: Dialect, limit: int) -> Record:
    delimiter = dialect.delimiter[0]
    fields: list[bytes] = []
    place = start
    multiline = literal = quoted = False
    while True:
        if place < stop and text[place] == QUOTE:
            close, doubled = _closing_quote(text, place + 1, start + limit)
            if close < 0:
                too_long = len(text) - start > limit
                return Record([], following, Fault.LONG if too_long else Fault.OPEN, False, multiline)
            quoted = True
            value = text[place + 1 : close]
            fields.append(value.replace(b'""', b'"') if doubled else value)
            place = close + 1
            if place > stop:  # the field ran over the end of this line: measure the line it ended in
                multiline = True
                stop, following = line_stop(text, place, dialect)
            if place < stop:
                if text[place] != delimiter:
                    return Record([], following, Fault.STRAY, following > stop, multiline)
                place += 1
                continue
        else:
            found = text.find(dialect.delimiter, place, stop)
            end = stop if found < 0 else found
            literal = literal or (end > place and text[end - 1] == QUOTE and text.count(b'"', place, end) % 2 == 1)
            fields.append(text[place:end])
            if found >= 0:
                place = found + 1
                continue
        return Record(fields, following, None, following > stop, multiline, literal, quoted)


def _closing_quote(text: bytes, place: int, bound: int) -> tuple[int, bool]:
    """(position of the closing quote or -1, whether doubled quotes stand before it)."""
    found = TO_CLOSING_QUOTE.match(text, place, bound + 1)
    if found is None:
        return -1, False
    close = found.end() - 1
    return close, text.find(b'""', place, close) >= 0
