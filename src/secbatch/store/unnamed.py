"""Rows that should have an id and have none: their names say where they stand."""

import pyarrow as pa
import pyarrow.compute as pc


def place_name(source: str, row: int, sentence: int = 0) -> str:
    """`sentence`: its number in the document that stands there."""
    return f"null@{source}:{row}/{sentence}" if sentence else f"null@{source}:{row}"


def are_place_names(names: pa.ChunkedArray, sources: pa.ChunkedArray, rows: pa.ChunkedArray) -> pa.ChunkedArray:
    """bool [n]: each name is that of its row's place."""
    sources, rows = sources.cast(pa.string()), rows.cast(pa.string())
    places = pc.binary_join_element_wise(pa.scalar("null@"), sources, pa.scalar(":"), rows, pa.scalar(""))
    return pc.equal(pc.replace_substring_regex(names.cast(pa.string()), r":([0-9]+)/[0-9]+$", r":\1"), places)
