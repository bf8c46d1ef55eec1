"""The types of the columns that a dataset has."""

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from secbatch.errors import OutputError
from secbatch.store.layout import Layout
from secbatch.store.row_keys import StoredKeys
from secbatch.store.versions import folder_name, part_name


def column_types(layout: Layout, newest: int = 0) -> dict[str, pa.DataType]:
    """The types of the columns of the version `newest`, or of what readers see; none where there is no dataset."""
    version = layout.versions.resolve() / folder_name(newest)
    if not version.is_dir():
        version = layout.data.resolve()
    if version.parent != layout.versions.resolve():  # not ours to walk through
        return {}
    first = next(version.rglob("*.parquet"), None)  # all parts of a version have the same
    if first is None:
        return {}
    try:
        schema = pq.read_schema(first)
    except (OSError, pa.ArrowInvalid):  # removed meanwhile, or damaged: whoever opens the dataset will see to it
        return {}
    return {field.name: field.type for field in schema} | _partition_types(layout, first.relative_to(version))


def _partition_types(layout: Layout, link: Path) -> dict[str, pa.DataType]:
    """Those of columns whose values stand in the names of folders: they were noted with the rows' keys."""
    try:
        noted = StoredKeys(layout.keys / f"{part_name(link)}.keys").checked().about.get("columns", {})
    except (OSError, OutputError):  # an older release's part has none; damaged ones are seen to with the dataset
        return {}
    types = {}
    for column in (folder.partition("=")[0] for folder in link.parts[:-1]):
        with suppress(KeyError, ValueError):  # the day of a run, a categorical
            types[column] = pa.type_for_alias(noted[column])
    return types
