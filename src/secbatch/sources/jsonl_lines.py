"""Lines of a JSON Lines file, and the object on each."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from secbatch.sources.piece import BLOCK, RECORD_LIMIT
from secbatch.sources.shard import RAW_LIMIT
from secbatch.sources.streams import Utf8Stream
from secbatch.sources.undecodable import what_is_wrong

DEEPEST = 500  # levels of nesting; Python cannot write again all that it can read
BLANK = b" \t\r"
DECODER = json.JSONDecoder()


class BadLineError(Exception):
    """A line that is no row; its text is the reason."""


def parse_line(line: bytes, recoded_from: str | None = None) -> dict[str, Any]:
    """The object on one line; `recoded_from`: the file's encoding where that is not UTF-8. Raises BadLineError."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLineError(f"the line {what_is_wrong(line, error.start, recoded_from)}") from None
    if text.startswith("\ufeff"):
        raise BadLineError("the line starts with a byte order mark, as only a file may; remove it")
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadLineError(f"the line is not valid JSON ({error.msg}, character {error.pos + 1})") from None
    except (ValueError, RecursionError) as error:
        kind = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        raise BadLineError(f"the line is not usable JSON ({kind})") from None
    if not isinstance(value, dict):
        raise BadLineError('the line is not a JSON object; each line must be one object {"column": value, …}')
    # Most lines are flat, without backslashes: one byte is looked for in a tenth of the time of counting, or of two.
    nested = b"[" in line or line.find(b"{", line.find(b"{") + 1) > 0
    if nested and line.count(b"[") + line.count(b"{") > DEEPEST and _nested_deeper(value, DEEPEST):
        raise BadLineError("the line is not usable JSON (nested too deeply)")
    if b"\\" in line and b"\\u" in line:
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


def lines(stream: Utf8Stream) -> Iterator[tuple[bytes, bool, int]]:
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
                whole = [b"".join([*parts, line] if not dropped else parts)]
                parts, held, dropped = [], 0, 0
                yield whole.pop(), True, length  # of which nothing is held here
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
