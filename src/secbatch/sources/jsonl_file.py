"""JSON Lines: one object a line; the columns and their types are settled before the first row is read."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from secbatch.errors import InputError
from secbatch.sources.columns import conversion_error, failing, from_text
from secbatch.sources.input_file import InputFile
from secbatch.sources.piece import BLOCK, RECORD_LIMIT, Piece, reject_piece
from secbatch.sources.shard import RAW_LIMIT, Reject
from secbatch.sources.streams import UnreadableFileError, Utf8Stream, broken_off, opened

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_BYTES = 8 << 20  # of the whole input that decide columns and types
SAMPLE_BYTES_A_FILE = 1 << 20
PIECE_ROWS = 8_192
MANY_COLUMNS, LEAST_FILLED = 2_000, 0.02  # more columns than that, of which less is filled, are no table
CELLS = 4 << 20  # of one piece at most
DEEPEST = 500  # levels of nesting; Python cannot write again all that it can read
BLANK = b" \t\r"
DECODER = json.JSONDecoder()


class BadLineError(Exception):
    """A line that is no row; its text is the reason."""


def parse_line(line: bytes) -> dict[str, Any]:
    """The object on one line. Raises BadLineError."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLineError(
            f"the line is not valid UTF-8 (byte 0x{line[error.start]:02x}); if the file is in another encoding, "
            "name it, for example `input.encoding: cp1252`"
        ) from None
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadLineError(f"the line is not valid JSON ({error.msg}, character {error.pos + 1})") from None
    except (ValueError, RecursionError) as error:
        kind = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        raise BadLineError(f"the line is not usable JSON ({kind})") from None
    if not isinstance(value, dict):
        raise BadLineError('the line is not a JSON object; each line must be one object {"column": value, …}')
    if line.count(b"[") + line.count(b"{") > DEEPEST and _nested_deeper(value, DEEPEST):
        raise BadLineError("the line is not usable JSON (nested too deeply)")
    if b"\\u" in line:
        _refuse_half_characters(value)
    return value


def _nested_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def _refuse_half_characters(row: Mapping[str, Any]) -> None:
    """BadLineError for a key with a lone surrogate (written as \\ud800): it cannot name a column."""
    for key in row:
        try:
            key.encode("utf-8")
        except UnicodeEncodeError:
            raise BadLineError(f"the key {key!r} holds half a character (a lone surrogate)") from None


def infer_types(objects: Iterable[Mapping[str, Any]], declared: "Mapping[str, pa.DataType]") -> "pa.Schema":
    """Columns in the order of their first appearance, `declared` ones that do not appear after them.

    bool, int64, float64 and string as the values are; anything mixed, nested or beyond 64 bits is text (JSON).
    """
    import pyarrow as pa

    kinds: dict[str, set[str]] = {}
    for row in objects:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
    fields = []
    for name, seen in kinds.items():
        seen.discard("null")
        if name in declared:
            inferred = declared[name]
        elif seen == {"bool"}:
            inferred = pa.bool_()
        elif seen == {"int"}:
            inferred = pa.int64()
        elif seen and seen <= {"int", "float"}:
            inferred = pa.float64()
        else:
            inferred = pa.string()
        fields.append(pa.field(name, inferred))
    fields += [pa.field(name, kind) for name, kind in declared.items() if name not in kinds]
    return pa.schema(fields)


def refuse_keys_that_are_data(file: InputFile, objects: Sequence[Mapping[str, Any]], schema: "pa.Schema") -> None:
    """InputError where nearly every object has keys of its own: they would make a table of nothing but nulls."""
    columns = len(schema.names)
    filled = sum(map(len, objects))
    if columns > MANY_COLUMNS and filled < columns * len(objects) * LEAST_FILLED:
        raise InputError(
            f"{file.path}: the first {len(objects):,} objects have {columns:,} different keys and share too few of "
            "them; bring the values under common keys, one object for each"
        )


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(1 << 63) <= value < 1 << 63 else "text"
    return "float" if isinstance(value, float) else "text"


def as_text(value: Any) -> str | None:
    """A JSON value as text: strings as they are, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def sample(files: Sequence[InputFile], encoding: str | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Objects from the start of the files, and for each file of which nothing can be read the reason."""
    objects: list[dict[str, Any]] = []
    unreadable: dict[str, str] = {}
    budget = SAMPLE_BYTES
    for file in files:
        if file.size == 0:
            unreadable[file.path] = "is empty: it has 0 bytes"
            continue
        if budget <= 0:
            continue
        try:
            text = opened(file, partial(_start, file, encoding, min(budget, SAMPLE_BYTES_A_FILE)))
        except UnreadableFileError as error:
            unreadable[file.path] = str(error)
            continue
        budget -= len(text)
        for line in text.split(b"\n"):
            if line.strip(BLANK):
                try:
                    objects.append(parse_line(line))
                except BadLineError:
                    continue  # the reader rejects it with its line number
    return objects, unreadable


def _start(file: InputFile, encoding: str | None, size: int) -> bytes:
    """About `size` bytes of a file's text, one whole line at least. Raises UnreadableFileError where there is none."""
    stream = Utf8Stream(file, encoding)
    try:
        text = stream.read(size)
        if not text.strip():
            raise UnreadableFileError(
                f"{stream.failure}; fetch the file again" if stream.failure else "is empty: it has only blank lines"
            )
        text += _rest_of_line(stream, text)
        if stream.failure and b"\n" not in text:
            raise UnreadableFileError(f"{stream.failure}; fetch the file again")
        return text
    finally:
        stream.close()


def _rest_of_line(stream: Utf8Stream, text: bytes) -> bytes:
    """The end of the first line where the sample holds no whole line."""
    parts: list[bytes] = []
    length = 0
    while b"\n" not in text and length < RECORD_LIMIT:
        text = stream.read(BLOCK)
        if not text:
            break
        parts.append(text[: text.find(b"\n") + 1] or text)
        length += len(text)
    return b"".join(parts)


class JsonlReader:
    """The rows of one JSONL file in the columns of `schema`."""

    def __init__(
        self,
        file: InputFile,
        schema: "pa.Schema",
        declared: "Mapping[str, pa.DataType]",
        encoding: str | None,
    ) -> None:
        self.file = file
        self.schema = schema
        self.declared = declared
        self._known = frozenset(schema.names)
        self._encoding = encoding
        self._stream: Utf8Stream | None = None
        self._consumed = 0  # bytes of text

    def position(self) -> int:
        return self._stream.position(self._consumed) if self._stream else 0

    def pieces(self) -> Iterator[Piece]:
        self._stream = stream = Utf8Stream(self.file, self._encoding)
        self._consumed = number = line_number = 0
        offset = stream.skipped
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        rejects: list[Reject] = []
        waiting = 0  # bytes of the lines in `rows`
        most = max(1, min(PIECE_ROWS, CELLS // max(1, len(self.schema))))
        try:
            for line, whole, length in _lines(stream):
                line_number += 1
                here = None if stream.recoded else offset
                offset += length
                self._consumed += length
                if not whole and stream.failure:
                    rejects.append(
                        reject_piece(
                            self.file.path, broken_off(stream.failure), line, line_number, here, whole_file=True
                        )
                    )
                    break
                if not line.strip(BLANK):
                    continue
                number += 1
                try:
                    if length > RECORD_LIMIT:
                        raise BadLineError(f"the line is longer than {RECORD_LIMIT >> 20} MiB")
                    rows.append(parse_line(line))
                    numbers.append(number)
                    waiting += length
                except BadLineError as error:
                    rejects.append(reject_piece(self.file.path, str(error), line, line_number, here))
                if len(rows) >= most or waiting >= BLOCK or len(rejects) >= PIECE_ROWS // 8:
                    yield self._piece(rows, numbers, rejects)
                    rows, numbers, rejects, waiting = [], [], [], 0
            if rows or rejects:
                yield self._piece(rows, numbers, rejects)
        finally:
            stream.close()

    def _piece(self, rows: list[dict[str, Any]], numbers: list[int], rejects: list[Reject]) -> Piece:
        import pyarrow as pa

        errors: dict[int, str] = {}

        def note(place: int, sentence: str) -> None:
            errors[place] = f"{errors[place]}; {sentence}" if place in errors else sentence

        columns = []
        for field in self.schema:
            values = [row.get(field.name) for row in rows]
            column, bad = self._column(values, field)
            for place in bad:
                note(
                    place,
                    conversion_error(self.file.path, numbers[place], field.name, values[place], field.type),
                )
            columns.append(column)
        for place, row in enumerate(rows):
            if not row.keys() <= self._known:
                extra = [key for key in row if key not in self._known]
                note(
                    place,
                    f"{self.file.path}, row {numbers[place]}: key '{extra[0]}' is not among the columns found at "
                    f"the start of the input; declare it, for example `input.types: {{{extra[0]}: string}}`",
                )
        table = pa.Table.from_arrays(columns, schema=self.schema)
        return Piece(self.file.path, table, np.array(numbers, dtype=np.int64), errors, rejects)

    def _column(self, values: list[Any], field: "pa.Field") -> "tuple[pa.Array, list[int]]":
        import pyarrow as pa

        found = set(map(type, values)) - {type(None)}
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


def _fitting(value: Any, kind: "pa.DataType") -> tuple[bool, Any]:
    """(whether `value` is of the inferred type, the value or None)."""
    import pyarrow as pa

    if value is None:
        return True, None
    found = _kind(value)
    if pa.types.is_boolean(kind):
        fits = found == "bool"
    elif pa.types.is_integer(kind):
        if found == "float" and value.is_integer() and abs(value) < 1 << 53:
            return True, int(value)
        fits = found == "int"
    else:
        fits = found == "float" or (found == "int" and abs(value) <= 1 << 53)
    return fits, value if fits else None


def _text_array(texts: list[str | None]) -> "tuple[pa.Array, list[int]]":
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


def _lines(stream: Utf8Stream) -> Iterator[tuple[bytes, bool, int]]:
    """(line without its end, whether a line end closed it, bytes it takes in the text).

    Of a line longer than RECORD_LIMIT only the start is given.
    """
    parts: list[bytes] = []  # the beginning of a line whose end is not read yet
    held = dropped = 0
    while block := stream.read(BLOCK):
        lines = block.split(b"\n")
        for line in lines[:-1]:
            if parts or dropped:
                length = held + len(line) + dropped + 1
                yield b"".join([*parts, line] if not dropped else parts), True, length
                parts, held, dropped = [], 0, 0
            else:
                yield line, True, len(line) + 1
        if held > RECORD_LIMIT:  # keep what a reject shows, drop the rest
            start = b"".join(parts)[:RAW_LIMIT]
            dropped += held - len(start) + len(lines[-1])
            parts, held = [start], len(start)
        elif dropped:
            dropped += len(lines[-1])
        elif lines[-1]:
            parts.append(lines[-1])
            held += len(lines[-1])
    if parts or stream.failure:  # a file that breaks off ends in half a line, be it an empty one
        yield b"".join(parts), False, held + dropped
