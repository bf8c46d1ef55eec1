"""Rows that should have an id and have none: their names say where they stand."""

import pyarrow as pa
import pyarrow.compute as pc

MARK = "null@"  # what these names begin with


def not_of_places(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """`names` (large strings) that rows have by their ids, none of which can be taken for the name of a place.

    Different ones stay different.
    """
    if not pc.any(pc.match_substring(names, MARK)).as_py():
        return names
    return pc.replace_substring_regex(names, rf"^(\\*{MARK})", r"\\\1")


def place_name(source: str, row: int, sentence: int = 0) -> str:
    """`sentence`: its number in the document that stands there."""
    return f"{MARK}{source}:{row}/{sentence}" if sentence else f"{MARK}{source}:{row}"


def are_place_names(names: pa.ChunkedArray, sources: pa.ChunkedArray, rows: pa.ChunkedArray) -> pa.ChunkedArray:
    """bool [n]: each name is that of its row's place."""
    sources, rows = sources.cast(pa.string()), rows.cast(pa.string())
    places = pc.binary_join_element_wise(pa.scalar(MARK), sources, pa.scalar(":"), rows, pa.scalar(""))
    return pc.equal(pc.replace_substring_regex(names.cast(pa.string()), r":([0-9]+)/[0-9]+$", r":\1"), places)
