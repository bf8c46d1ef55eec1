"""A place in the text of a CSV file."""

from secbatch.sources.csv_records import Dialect, Fault, Record, parse_record
from secbatch.sources.piece import BLOCK, RECORD_LIMIT
from secbatch.sources.streams import Utf8Stream

PASSED = 4 * BLOCK  # bytes of text that are behind it at most: a long record is not held beside what is made of it


class Cursor:
    """The text of a file from the current record on; knows line and offset of where it stands."""

    def __init__(self, stream: Utf8Stream, dialect: Dialect) -> None:
        self.stream = stream
        self.dialect = dialect
        self.text = b""
        self.place = 0
        self.line = 1
        self.offset = stream.skipped  # of `place`, in the decompressed file
        self.ended = False

    @property
    def left(self) -> int:
        return len(self.text) - self.place

    def fill(self, size: int) -> None:
        """At least `size` bytes after `place`, or all that is left."""
        while self.left < size and not self.ended:
            self.grow(max(BLOCK, size - self.left))

    def grow(self, size: int = 0) -> None:
        """More text after what is there: half as much again at least, so that long records cost linear time."""
        more = self.stream.read(max(size, BLOCK, self.left // 2))
        self.ended = not more
        self.text = self.text[self.place :] + more
        self.place = 0
        if self.ended and self.dialect.line_end == b"\n":
            self.text = self.text.rstrip(b"\r")  # half of the CRLF of a file that was cut there

    def advance(self, count: int) -> None:
        stop = self.place + count
        self.line += self.text.count(self.dialect.line_end, self.place, stop)
        self.offset += count
        self.place = stop
        if stop > PASSED:
            self.text, self.place = self.text[stop:], 0

    def skip_line(self) -> None:
        """Past the end of the current line, however long it is, without keeping it."""
        while True:
            found = self.text.find(self.dialect.line_end, self.place)
            if found >= 0 or self.ended:
                self.advance((found + 1 if found >= 0 else len(self.text)) - self.place)
                return
            self.advance(self.left)
            self.fill(1)

    def record(self, ahead: int = 0) -> Record:
        """The record that starts `ahead` bytes after `place`, with more text read as it needs. Its `end` is
        relative to `place`."""
        while True:
            record = parse_record(self.text, self.place + ahead, self.dialect, RECORD_LIMIT)
            waits = not record.complete and record.fault is not Fault.LONG
            if not waits or self.ended:
                record.end -= self.place
                return record
            self.grow()
