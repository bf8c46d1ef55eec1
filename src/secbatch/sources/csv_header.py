"""The header of a CSV file: encoding, line ends, delimiter and column names."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

from secbatch.errors import InputError, in_job_or_option, shown
from secbatch.sources.csv_records import CR, QUOTE, Dialect, Fault, line_stop, parse_record
from secbatch.sources.input_file import InputFile
from secbatch.sources.streams import UnreadableFileError, Utf8Stream, refuse_wide_encoding
from secbatch.sources.undecodable import bytes_of_the_file

DELIMITERS = (b",", b";", b"\t", b"|")  # in this order where two stand equally often in the header
NO_DELIMITER = b"\xff"  # a byte that valid text never holds: each line is one value
EXCEL_DELIMITER = re.compile(rb'"?sep=([,;\t|])"?\r?$', re.IGNORECASE)  # a line before the header, which Excel writes
HEADER_LIMIT = 1 << 20  # bytes
FIRST_LOOK = 1 << 16  # bytes; most headers are whole in it
LF = 0x0A


@dataclass(frozen=True)
class CsvLayout:
    """What the start of a file tells about the rest of it."""

    names: tuple[str, ...]  # in the file's order
    dialect: Dialect
    header_end: int  # bytes of UTF-8 text before the first row
    found: bool  # the delimiter was found, not named
    header_only: bool  # no rows follow
    notices: tuple[str, ...]
    digest: bytes  # of the text before the first row


def header_digest(text: bytes) -> bytes:
    """Tells whether a file that is read has the header by which it was listed."""
    return hashlib.blake2b(text, digest_size=16).digest()


def delimiter_name(delimiter: bytes) -> str:
    return "tab" if delimiter == b"\t" else f"'{delimiter.decode()}'"


def without_delimiter(fields: list[bytes], dialect: Dialect) -> list[bytes]:
    """`fields`, put together again where NO_DELIMITER parted them: then the text is invalid, and not wider."""
    return [NO_DELIMITER.join(fields)] if dialect.delimiter == NO_DELIMITER else fields


def read_layout(file: InputFile, delimiter: str | None, encoding: str | None) -> CsvLayout:
    """The layout of `file` by its header.

    Raises UnreadableFileError (empty, undecodable) and InputError (two columns of one name).
    """
    named = delimiter.encode() if delimiter else None
    stream = Utf8Stream(file, encoding)
    try:
        text = stream.read(FIRST_LOOK)
        while text and not _has_whole_header(text, named) and len(text) <= HEADER_LIMIT:
            more = stream.read(FIRST_LOOK)
            if not more:
                break
            text += more
        if stream.failure and not _has_whole_header(text, named):
            raise UnreadableFileError(f"{stream.failure}; fetch the file again")
        recoded, codec, marked = stream.recoded, stream.encoding, stream.marked
    finally:
        stream.close()
    if not text.strip() and len(text) > HEADER_LIMIT:
        raise UnreadableFileError("starts with more than 1 MiB of blank lines; remove them, the header comes first")
    if not text.strip():
        raise UnreadableFileError("is empty: it has no header; a CSV file starts with its column names")
    if not recoded:
        refuse_wide_encoding(text)
    return _layout(file, text, named, codec if recoded else "UTF-8", marked)


def _layout(file: InputFile, text: bytes, named: bytes | None, codec: str, marked: bool) -> CsvLayout:
    line_end = _line_end(text, named)
    start, stop, following = _first_line(text, 0, line_end)
    said = EXCEL_DELIMITER.match(text, start, stop)
    if said:
        start, _, _ = _first_line(text, following, line_end)
    chosen = named or (said[1] if said else _most_frequent(text, start))
    dialect = Dialect(chosen, line_end)
    record = parse_record(text, start, dialect, HEADER_LIMIT)
    if record.fault is not None or record.end - start > HEADER_LIMIT:
        hint = "longer than 1 MiB" if record.fault in (None, Fault.LONG) else "broken by a stray quote"
        raise UnreadableFileError(f"has a header that is {hint}; mend its first line")
    try:
        names = [name.decode("utf-8") for name in without_delimiter(record.fields, dialect)]
    except UnicodeDecodeError as error:
        remedy = f"name the encoding, for example {in_job_or_option('encoding', 'cp1252')}"
        if marked:
            remedy = "its byte order mark says that it is, whatever encoding is named: write the file again"
        byte = bytes_of_the_file(error.object[error.start :])[0]
        raise UnreadableFileError(f"has a header that is not valid {codec} (byte 0x{byte:02x}); {remedy}") from None
    names, notices = _named(file, names)
    header_only = len(text) < FIRST_LOOK and not text[record.end :].strip()
    digest = header_digest(text[: record.end])
    return CsvLayout(tuple(names), dialect, record.end, named is None, header_only, notices, digest)


def _first_line(text: bytes, start: int, line_end: bytes) -> tuple[int, int, int]:
    """Where the first line from `start` on that is not blank starts and stops, and where the next one starts."""
    while True:
        stop, following = line_stop(text, start, Dialect(b",", line_end))
        if text[start:stop].strip() or following == stop:
            return start, stop, following
        start = following


def _named(file: InputFile, names: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Names for nameless columns (an index written by pandas has none); InputError on a name used twice."""
    notices = []
    for place, name in enumerate(names):
        if not name.strip():
            names[place] = f"column_{place + 1}"
            notices.append(f"column {place + 1} of {file.path} has no name; it is called 'column_{place + 1}'")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        listed = ", ".join(f"'{shown(name)}'" for name in twice)
        raise InputError(f"{file.path}: the header names {listed} more than once; rename the columns")
    return names, tuple(notices)


def _outside_quotes(text: bytes, delimiter: bytes | None, start: int = 0) -> "list[tuple[int, int]]":
    """(position, byte) of what stands outside quotes, up to the first line end there.

    As in any record, a quote opens a field only where one starts: after the delimiter, or what may be it.
    """
    before_field = {LF, CR, *(delimiter or b"".join(DELIMITERS))}
    result = []
    inside = False
    opens = True  # whether a quote that follows is more than a character
    for place in range(start, len(text)):
        byte = text[place]
        if byte == QUOTE and (inside or opens):
            inside = not inside
            opens = True  # a doubled quote
        elif not inside:
            opens = byte in before_field
            result.append((place, byte))
            if byte in (LF, CR):
                break
    return result


def _has_whole_header(text: bytes, delimiter: bytes | None) -> bool:
    start = len(text) - len(text.lstrip())
    outside = _outside_quotes(text, delimiter, start)
    if outside and EXCEL_DELIMITER.match(text, start, outside[-1][0]):
        start = len(text) - len(text[outside[-1][0] :].lstrip())
        outside = _outside_quotes(text, delimiter, start)
    # A CR at the very end may be half of a CRLF.
    return bool(outside) and outside[-1][1] in (LF, CR) and outside[-1][0] + 1 < len(text)


def _line_end(text: bytes, delimiter: bytes | None) -> bytes:
    outside = _outside_quotes(text, delimiter)
    if outside and outside[-1][1] == CR and not text[outside[-1][0] :].lstrip(b"\r").startswith(b"\n"):
        return b"\r"
    return b"\n"


def _most_frequent(text: bytes, start: int) -> bytes:
    counts = Counter(bytes((byte,)) for _, byte in _outside_quotes(text, None, start))
    best = max(DELIMITERS, key=lambda d: (counts[d], -DELIMITERS.index(d)))
    return best if counts[best] else NO_DELIMITER
