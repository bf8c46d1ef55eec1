"""JSON Lines: one object a line; the columns and their types are settled before the first row is read."""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from secbatch.errors import shown
from secbatch.sources.columns import conversion_error, failing, from_text, note
from secbatch.sources.input_file import InputFile
from secbatch.sources.jsonl_block import fits_arrow, scan
from secbatch.sources.jsonl_columns import as_text, check_start, kind_of_value
from secbatch.sources.jsonl_lines import BLANK, BadLineError, lines, parse_line
from secbatch.sources.piece import BLOCK, RECORD_LIMIT, Piece, reject_piece, unreadable_piece
from secbatch.sources.shard import Reject
from secbatch.sources.streams import UnreadableFileError, Utf8Stream, broken_off

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_ROWS = 8_192
CELLS = 4 << 20  # of one piece at most
MOST_CAREFUL_PIECES = 32  # until the fast path is tried again


class _Line(NamedTuple):
    text: bytes  # without its end
    length: int  # bytes of the text of the file
    number: int  # of the row
    line: int
    offset: int | None


class JsonlReader:
    """The rows of one JSONL file in the columns of `schema`."""

    def __init__(
        self,
        file: InputFile,
        schema: "pa.Schema",
        declared: "Mapping[str, pa.DataType]",
        encoding: str | None,
        looked_at: bool = True,
    ) -> None:
        """`looked_at`: the file's start was read when the input was listed; else it may turn out to be unreadable."""
        self.file = file
        self.schema = schema
        self.declared = declared
        self._names = schema.names
        self._known = frozenset(schema.names)
        self._pick = itemgetter(*schema.names) if len(schema.names) > 1 else None
        self._encoding = encoding
        self._looked_at = looked_at
        self._stream: Utf8Stream | None = None
        self._consumed = 0  # bytes of text
        self._fits_arrow = fits_arrow(schema)
        self._refused = self._careful_pieces = 0  # pieces that the fast path has refused in a row; that are not tried

    def position(self) -> int:
        return self._stream.position(self._consumed) if self._stream else 0

    def pieces(self) -> Iterator[Piece]:
        if not self._looked_at:
            try:
                check_start(self.file, self._encoding)
            except UnreadableFileError as error:
                yield unreadable_piece(self.file.path, str(error), self.schema)
                return
        self._stream = stream = Utf8Stream(self.file, self._encoding)
        self._consumed = number = line_number = 0
        offset = stream.skipped
        waiting: list[_Line] = []
        held = 0  # bytes of these
        most = max(1, min(PIECE_ROWS, CELLS // max(1, len(self.schema))))
        broken: list[Reject] = []
        try:
            for line, whole, length in lines(stream):
                line_number += 1
                here = None if stream.recoded else offset
                offset += length
                self._consumed += length
                if not whole and stream.failure:
                    why = broken_off(stream.failure)
                    broken.append(reject_piece(self.file.path, why, line, line_number, here, whole_file=True))
                    break
                if not line.strip(BLANK):
                    continue
                number += 1
                waiting.append(_Line(line, length, number, line_number, here))
                held += length
                del line  # nothing of a large row is held beside its columns while the next one waits
                if len(waiting) >= most or held >= BLOCK:
                    piece = self._piece(waiting, stream)
                    held = 0
                    yield piece
                    del piece
            if waiting or broken:
                piece = self._piece(waiting, stream)
                piece.rejects += broken
                yield piece
        finally:
            stream.close()

    def _piece(self, waiting: "list[_Line]", stream: Utf8Stream) -> Piece:
        """Of the lines, which it takes out of the list."""
        if self._careful_pieces:
            self._careful_pieces -= 1
        elif waiting and self._fits_arrow:
            table = scan([line.text for line in waiting], self.schema)
            if table is not None:
                numbers = np.fromiter((line.number for line in waiting), np.int64, len(waiting))
                waiting.clear()
                self._refused = 0
                return Piece(self.file.path, table, numbers)
            self._refused += 1
            self._careful_pieces = min(2**self._refused, MOST_CAREFUL_PIECES)
        return self._carefully(waiting, stream)

    def _carefully(self, waiting: "list[_Line]", stream: Utf8Stream) -> Piece:
        """Line by line, with Python's parser."""
        rows: list[Sequence[Any]] = []  # values in the order of the schema: of a column they lie far apart in memory
        unknown: dict[int, str] = {}  # place in `rows` -> a key that is no column
        numbers: list[int] = []
        rejects: list[Reject] = []
        waiting.reverse()
        while waiting:
            line = waiting.pop()
            try:
                if line.length > RECORD_LIMIT:
                    raise BadLineError(f"the line is longer than {RECORD_LIMIT >> 20} MiB")
                row = parse_line(line.text, stream.recoded_from)
                if not row.keys() <= self._known:
                    unknown[len(rows)] = next(key for key in row if key not in self._known)
                rows.append(self._values(row))
                numbers.append(line.number)
                del row
            except BadLineError as error:
                raw = stream.as_stored(line.text)
                rejects.append(reject_piece(self.file.path, str(error), raw, line.line, line.offset))
            del line
        return self._typed(rows, unknown, numbers, rejects)

    def _values(self, row: dict[str, Any]) -> Sequence[Any]:
        if self._pick:
            try:
                values: tuple[Any, ...] = self._pick(row)  # a third of the time of one after another
                return values
            except KeyError:
                pass
        return [row.get(name) for name in self._names]

    def _typed(
        self, rows: list[Sequence[Any]], unknown: dict[int, str], numbers: list[int], rejects: list[Reject]
    ) -> Piece:
        import pyarrow as pa

        errors: dict[int, str] = {}
        columns = []
        by_column = zip(*rows, strict=True) if rows else [()] * len(self.schema)
        for field, values in zip(self.schema, by_column, strict=True):
            column, bad = self._column(values, field)
            for place in bad:
                sentence = conversion_error(self.file.path, numbers[place], field.name, values[place], field.type)
                note(errors, place, sentence)
            columns.append(column)
        for place, key in unknown.items():
            extra = shown(key)
            note(
                errors,
                place,
                f"{self.file.path}, row {numbers[place]}: key '{extra}' is not among the columns found at "
                f"the start of the input; declare it, for example `input.types: {{{extra}: string}}`",
            )
        table = pa.Table.from_arrays(columns, schema=self.schema)
        return Piece(self.file.path, table, np.array(numbers, dtype=np.int64), errors, rejects)

    def _column(self, values: Sequence[Any], field: "pa.Field") -> "tuple[pa.Array, list[int]]":
        import pyarrow as pa

        found = set(map(type, values)) - {type(None)}
        if float in found and pa.types.is_integer(field.type):
            values = [_whole(value) for value in values]
        if field.name in self.declared or pa.types.is_string(field.type):
            texts, bad = _text_array(values if found <= {str} else [as_text(value) for value in values])
            converted, unfit = from_text(texts, field.type)
            return converted, sorted({*bad, *unfit})
        if (
            found <= {bool}
            if pa.types.is_boolean(field.type)
            else found <= {float} and pa.types.is_floating(field.type)
        ):
            return pa.array(values, field.type), []
        if found <= {int} and pa.types.is_integer(field.type):
            try:
                return pa.array(values, field.type), []
            except OverflowError:
                pass  # one is beyond 64 bits: find out which
        accepted, bad = [], []
        for place, value in enumerate(values):
            fits, value = _fitting(value, field.type)
            accepted.append(value)
            if not fits:
                bad.append(place)
        return pa.array(accepted, field.type), bad


def _whole(value: Any) -> Any:
    """A whole float (`3.0`) as the integer that it is; anything else as it stands."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 1 << 53 else value


def _fitting(value: Any, kind: "pa.DataType") -> tuple[bool, Any]:
    """(whether `value` is of the inferred type, the value or None)."""
    import pyarrow as pa

    if value is None:
        return True, None
    found = kind_of_value(value)
    if pa.types.is_boolean(kind):
        fits = found == "bool"
    elif pa.types.is_integer(kind):
        fits = found == "int"
    else:
        fits = found == "float" or (found == "int" and abs(value) <= 1 << 53)
    return fits, value if fits else None


def _text_array(texts: Sequence[str | None]) -> "tuple[pa.Array, list[int]]":
    """Text as a string column; lone surrogates (JSON's \\ud800 can write them) have no UTF-8 form: null."""
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string()), []
    except (UnicodeEncodeError, pa.ArrowInvalid):

        def holds(start: int, stop: int) -> bool:
            try:
                "".join(text or "" for text in texts[start:stop]).encode("utf-8")
            except UnicodeEncodeError:
                return False
            return True

        bad = failing(len(texts), holds)
        kept: list[str | None] = list(texts)
        for place in bad:
            kept[place] = None
        return pa.array(kept, pa.string()), bad
