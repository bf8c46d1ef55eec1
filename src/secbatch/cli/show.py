"""`secbatch show`: results as a person wants to read them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secbatch.cli.terminal import printable
from secbatch.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


@click.command()
@click.argument("output", metavar="OUT")
@click.option("--rows", default=10, show_default=True, type=click.IntRange(min=1), help="How many rows.")
@click.option("--rejected", is_flag=True, help="Only rows that were rejected, with the reason.")
def show(output: str, rows: int, rejected: bool) -> int:
    """Print results from the output folder (or .parquet file) OUT."""
    table, tasks = _read(Path(output), rows, rejected)
    if not table.num_rows:
        click.echo("No rows.")
        return 0
    for number, row in enumerate(table.to_pylist()):
        if number:
            click.echo()
        for label, text in _lines(row, tasks):
            click.echo(f"{click.style(label + ':', bold=True)} {printable(text)}")
    return 0


def _read(output: Path, rows: int, rejected: bool) -> "tuple[pa.Table, dict[str, dict[str, Any]]]":
    """The first rows, and what each task does (from the parts' footer)."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    place = output / "data" if (output / "data").exists() else output
    if not place.exists():
        raise InputError(f"'{output}' does not exist; give the output folder or the .parquet file of a run.")
    try:
        place = place.resolve()  # the version of this moment, whatever is published meanwhile
        dataset = ds.dataset(place, format="parquet", partitioning="hive")
        footer = json.loads(((dataset.schema.metadata or {}).get(b"secbatch")) or b"{}")
        if not footer:
            raise InputError(f"'{output}' holds no results of secbatch; give the output of `secbatch run` or `enrich`.")
        wanted = pc.field("secbatch_status") == "rejected" if rejected else None
        return dataset.head(rows, filter=wanted), footer.get("specs", {})
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise InputError(f"'{output}' cannot be read as Parquet ({error}).") from None


def _lines(row: dict[str, Any], tasks: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Label and text, in the manner of a notebook: the input, the words, the question and its answer."""
    shown: set[str] = set()
    for name, task in tasks.items():
        source = _rendered(task["text"], row)
        kind = task["type"]
        if not source or (kind != "embed" and row.get(f"{name}_predictions") is None and row.get(name) is None):
            continue
        if source not in shown:
            shown.add(source)
            yield "Question" if kind == "chat" else "Input", source
        if kind == "fill-mask":
            several = len(row[f"{name}_predictions"]) > 1
            for number, words in enumerate(row[f"{name}_predictions"], 1):
                label = f"{name} {number}" if several else name
                yield label, " | ".join(word["token"] for word in words) or "(outside the model's window)"
        elif kind == "chat":
            yield name, row[name]
        elif row.get(name):
            vector = row[name]
            yield name, f"[{', '.join(f'{x:.3f}' for x in vector[:4])}, ...] ({len(vector)} numbers)"
    if not shown:
        texts = [
            f"{key}={value}" for key, value in row.items() if not key.startswith("secbatch_") and value is not None
        ]
        yield "Row", " · ".join(texts)[:300]
    if row.get("secbatch_error"):
        yield "Rejected", f"{row['secbatch_source']} row {row['secbatch_row']}: {row['secbatch_error']}"


def _rendered(text: str, row: dict[str, Any]) -> str:
    """The task's text for this row: a column, or a template with the row's values in it."""
    if text in row:
        return str(row[text] or "")
    names = re.findall(r"(?<!\{)\{([^{}]+)\}", text)
    if any(row.get(name) is None for name in names):
        return ""
    for name in names:
        text = text.replace("{" + name + "}", str(row[name]))
    return text
