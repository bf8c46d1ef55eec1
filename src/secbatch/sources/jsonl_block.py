"""Clean lines of JSON to columns by Arrow's parser, which makes no Python objects: the fast path.

What it accepts, `jsonl_lines.parse_line` would parse to the same values; of lines with anything else it accepts none,
and leaves them to the careful parser.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from secbatch.sources.piece import BLOCK

if TYPE_CHECKING:
    import pyarrow as pa

EXACT = 1 << 53  # from here on not every integer has a float64
LONGEST = 2 * BLOCK  # bytes; longer lines are few, and their objects cost little beside their text
_HALF = re.compile(rb"\\u[dD]")  # maybe a surrogate: what a lone one becomes differs


def fits_arrow(schema: "pa.Schema") -> bool:
    """Whether all columns are of types that Arrow's parser reads as the careful one does."""
    import pyarrow as pa

    return len(schema) > 0 and set(schema.types) <= {pa.string(), pa.int64(), pa.float64(), pa.bool_()}


def scan(lines: Sequence[bytes], schema: "pa.Schema") -> "pa.Table | None":
    """A row for each line, in one chunk; None where they are not all objects of these columns and types alone.

    `lines`: without their ends. `schema`: one that `fits_arrow`.
    """
    import pyarrow as pa
    from pyarrow import json

    if sum(map(len, lines)) > LONGEST:
        return None
    # Then no object goes over a line's end: within one nothing that starts so can follow what ends so. Each line has an
    # object or more, and as many rows as lines are one each.
    if not all(line.startswith(b"{") and line.endswith((b"}", b"}\r")) for line in lines):
        return None
    text = b"\n".join(lines)
    if b"\0" in text or (b"\\" in text and _HALF.search(text)):  # it would end at the NUL
        return None
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return None
    read = json.ReadOptions(use_threads=False, block_size=len(text) + 1)
    parse = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    try:
        table = json.read_json(pa.BufferReader(text), read, parse)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if table.num_rows != len(lines) or table.schema.names != schema.names:
        return None
    floats = (table.column(name) for name, kind in zip(schema.names, schema.types, strict=True) if kind == pa.float64())
    return table if all(map(_are_read_alike, floats)) else None


def _are_read_alike(column: "pa.ChunkedArray") -> bool:
    """Whether Python makes the same numbers of their texts: integers are none of floats there, nor is their zero."""
    values = column.drop_null().to_numpy()
    return bool((np.abs(values) < EXACT).all() and not np.signbit(values[values == 0]).any())
