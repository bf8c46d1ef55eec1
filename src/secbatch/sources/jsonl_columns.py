"""Columns of JSON Lines and their types, as the start of the input decides them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from secbatch.errors import InputError
from secbatch.sources.input_file import InputFile
from secbatch.sources.jsonl_lines import BLANK, BadLineError, parse_line
from secbatch.sources.piece import BLOCK, RECORD_LIMIT
from secbatch.sources.streams import UnreadableFileError, Utf8Stream, opened, refuse_wide_encoding

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_BYTES = 8 << 20  # of the whole input that decide columns and types
SAMPLE_BYTES_A_FILE = 1 << 20
FIRST_LOOK = 1 << 16  # bytes of a file that is not among these
_ENCODER = json.JSONEncoder(ensure_ascii=False)
MANY_COLUMNS, LEAST_FILLED = 2_000, 0.02  # more columns than that, of which less is filled, are no table


def infer_types(objects: Iterable[Mapping[str, Any]], declared: "Mapping[str, pa.DataType]") -> "pa.Schema":
    """Columns in the order of their first appearance, `declared` ones that do not appear after them.

    bool, int64, float64 and string as the values are; anything mixed, nested or beyond 64 bits is text (JSON).
    """
    import pyarrow as pa

    kinds: dict[str, set[str]] = {}
    for row in objects:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(kind_of_value(value))
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


def kind_of_value(value: Any) -> str:
    """null, bool, int (of 64 bits), float or text: what a JSON value is to a column."""
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
    return _ENCODER.encode(value)


def sample(
    files: Sequence[InputFile], encoding: str | None
) -> tuple[list[dict[str, Any]], dict[str, str], frozenset[str]]:
    """Objects from the start of the files, for each file of which nothing can be read the reason, and the files that
    were not looked at, as those before them have enough."""
    objects: list[dict[str, Any]] = []
    unreadable: dict[str, str] = {}
    left: list[str] = []
    budget = SAMPLE_BYTES
    for file in files:
        if file.size == 0:
            unreadable[file.path] = "is empty: it has 0 bytes"
            continue
        if budget <= 0:
            left.append(file.path)
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
    return objects, unreadable, frozenset(left)


def check_start(file: InputFile, encoding: str | None) -> None:
    """Raises UnreadableFileError for a file of which nothing can be read."""
    stream = Utf8Stream(file, encoding)
    try:
        _first_text(stream, FIRST_LOOK)
    finally:
        stream.close()


def _start(file: InputFile, encoding: str | None, size: int) -> bytes:
    """About `size` bytes of a file's text, one whole line at least. Raises UnreadableFileError where there is none."""
    stream = Utf8Stream(file, encoding)
    try:
        text = _first_text(stream, size)
        text += _rest_of_line(stream, text)
        if stream.failure and b"\n" not in text:
            raise UnreadableFileError(f"{stream.failure}; fetch the file again")
        return text
    finally:
        stream.close()


def _first_text(stream: Utf8Stream, size: int) -> bytes:
    """About `size` bytes of text behind blank lines. Raises UnreadableFileError where there is none."""
    text = stream.read(size)
    while text and not text.strip():  # blank lines
        text = stream.read(size)
    if not text.strip():
        raise UnreadableFileError(
            f"{stream.failure}; fetch the file again" if stream.failure else "is empty: it has only blank lines"
        )
    if not stream.recoded:
        refuse_wide_encoding(text)
    return text


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
