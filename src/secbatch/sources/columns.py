"""Type names of `input.types`, and the conversion of text to typed columns one value at a time where needed."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from secbatch.errors import InputError, JobError, columns_there, nearest, quoted, shown

if TYPE_CHECKING:
    import pyarrow as pa

SIMPLE = (
    *("string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64", "date32", "timestamp[s]", "timestamp[ms]", "timestamp[us]", "timestamp[ns]"),
)
ALIASES = {
    "str": "string",
    "text": "string",
    "boolean": "bool",
    "int": "int64",
    "integer": "int64",
    "float": "float64",
    "double": "float64",
    "date": "date32",
    "timestamp": "timestamp[us]",
    "datetime": "timestamp[us]",
}


def column_type(name: str, column: str) -> "pa.DataType":
    """The Arrow type that `input.types` names for `column`. Raises JobError for an unknown name or time zone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = name.strip().lower()
    plain = ALIASES.get(plain, plain)
    if plain in SIMPLE:
        return pa.type_for_alias(plain)
    zoned = re.fullmatch(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([A-Za-z0-9_+:/-]+)\]", name.strip())
    if zoned:
        try:
            pc.local_timestamp(pa.scalar(0, pa.timestamp(zoned[1], tz=zoned[2])))
        except pa.ArrowInvalid:
            raise JobError(
                f"input.types: column '{column}' has the unknown time zone '{zoned[2]}'; write one such as UTC, "
                "Europe/Berlin or +02:00"
            ) from None
        return pa.timestamp(zoned[1], tz=zoned[2])
    decimal = re.fullmatch(r"decimal\((\d{1,2}),\s*(\d{1,2})\)", plain)
    if decimal and 0 < int(decimal[1]) <= 38 and int(decimal[2]) <= int(decimal[1]):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    known = (*SIMPLE, *ALIASES)
    raise JobError(
        f"input.types: column '{column}' has the unknown type '{name}'{nearest(name, known)}; known are "
        f"{', '.join(SIMPLE)}, timestamp[us, UTC], decimal(10,2)"
    )


def column_types(types: Mapping[str, str]) -> "dict[str, pa.DataType]":
    """All of `input.types` as Arrow types."""
    return {column: column_type(name, column) for column, name in types.items()}


def check_known(column: str, names: tuple[str, ...], key: str) -> None:
    """InputError where the job's `key` names a column that the input lacks."""
    if column not in names:
        raise InputError(
            f"{key}: the input has no column '{shown(column)}'{nearest(column, names)}; {columns_there(names)}"
        )


def failing(length: int, holds: Callable[[int, int], bool]) -> list[int]:
    """Positions i for which `holds(i, i + 1)` is false, where `holds(a, b)` means all of a…b are fine.

    Halving finds k bad values among n with about k·log n calls.
    """
    bad: list[int] = []
    open_ranges = [(0, length)]
    while open_ranges:
        start, stop = open_ranges.pop()
        if start >= stop or holds(start, stop):
            continue
        if stop - start == 1:
            bad.append(start)
            continue
        middle = (start + stop) // 2
        open_ranges += [(middle, stop), (start, middle)]
    return bad


def convert(values: "pa.Array", target: "pa.DataType") -> "tuple[pa.Array, list[int]]":
    """`values` [n] as `target`, and the positions that could not be converted (null in the result)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.type == target:
        return values, []

    def cast(array: "pa.Array") -> "pa.Array | None":
        try:
            return pc.cast(array, target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return None

    result = cast(values)
    if result is not None:
        return result, []
    bad = failing(len(values), lambda start, stop: cast(values.slice(start, stop - start)) is not None)
    good = cast(without(values, bad))
    if good is None:
        good = pa.nulls(len(values), target)
    return good, bad


def without(values: "pa.Array", bad: list[int]) -> "pa.Array":
    """`values` with null at the positions `bad`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    keep = np.ones(len(values), dtype=bool)
    keep[bad] = False
    return pc.if_else(pa.array(keep), values, pa.scalar(None, values.type))


def from_text(values: "pa.Array", target: "pa.DataType") -> "tuple[pa.Array, list[int]]":
    """Text [n] as `target`: spaces around a value do not count, and an empty value is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(target):
        return values, []
    trimmed = pc.utf8_trim_whitespace(values)
    empty = pc.equal(trimmed, "")
    result, bad = convert(pc.if_else(empty, pa.scalar(None, pa.string()), trimmed), target)
    if not pa.types.is_signed_integer(target):
        return result, bad
    # Arrow takes 0xFF for the bits of an int8, which are those of -1.
    wrapped = pc.fill_null(pc.and_(pc.less(result, 0), pc.starts_with(trimmed, "0")), False)
    places = pc.indices_nonzero(wrapped).to_pylist()
    return (pc.if_else(wrapped, pa.scalar(None, target), result), sorted([*bad, *places])) if places else (result, bad)


def conversion_error(
    file: str,
    row: int,
    column: str,
    value: object,
    target: "pa.DataType",
    remedy: str = "mend the value or declare another type in `input.types`",
) -> str:
    """The sentence on a value that is not of its declared type."""
    return f"{file}, row {row}, column '{column}': {quoted(str(value))} is not of type {type_name(target)}; {remedy}"


def note(errors: dict[int, str], place: int, sentence: str) -> None:
    """Adds a sentence on the row at `place` to what is said of it already."""
    errors[place] = f"{errors[place]}; {sentence}" if place in errors else sentence


def type_name(kind: "pa.DataType") -> str:
    """A type as `input.types` spells it."""
    arrow = str(kind)
    return {"double": "float64", "float": "float32", "date32[day]": "date32"}.get(arrow, arrow)
