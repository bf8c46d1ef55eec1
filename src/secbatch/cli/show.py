"""`secbatch show`: results as a person wants to read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secbatch.cli.footer import read_footer, several_labels, tasks_of
from secbatch.cli.origins import Origins
from secbatch.cli.terminal import bold, printable
from secbatch.errors import InputError, JobError, counted, listed
from secbatch.no_python_object import NO_OBJECT
from secbatch.store.filesystem import explain_read, refuses_to_read
from secbatch.store.layout import Layout, rejects_beside
from secbatch.working_folder import check_working_folder, check_working_folder_name

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

SHOWN_CHARACTERS = 2000
SHOWN_LABELS = 5
_FULLEST = {
    "fill-mask": "_predictions",
    "classify": "_scores",
    "qa": "_score",
}  # the column that is null only where nothing was done


@click.command()
@click.argument("output", metavar="OUT")
@click.option("--rows", default=10, show_default=True, type=click.IntRange(min=1), help="How many rows.")
@click.option("--rejected", is_flag=True, help="Only what was rejected, lines that are no rows too, and why.")
@click.option("--models", "with_models", is_flag=True, help="Also which model gave each row its results, in which run.")
def show(output: str, rows: int, rejected: bool, with_models: bool) -> int:
    """Print results from the output folder (or .parquet file) OUT."""
    if not Path(output).is_absolute():
        check_working_folder()
        check_working_folder_name()
    place = _output(Path(output))
    table, tasks, there = _read(place, rows, rejected)
    found = _objects(table)
    blocks = [list(_lines(row, texts, tasks)) for row, texts in zip(found, _texts(table, tasks), strict=True)]
    if with_models:
        origins = Origins(place, table.schema.metadata)
        for row, block in zip(found, blocks, strict=True):
            block.append(("Models", origins.told(row.get("secbatch_run"))))
    if rejected:
        lines, more = _unparseable(place, rows - len(blocks))
        blocks += [_reject_lines(reject) for reject in lines]
        there += more
    if not blocks:
        click.echo("No rejected rows." if rejected else "No rows.")
    for number, block in enumerate(blocks):
        if number:
            click.echo()
        for label, text in block:
            click.echo(f"{bold(printable(label) + ':')} {_shortened(printable(text))}")
    if rejected and there > len(blocks):  # nobody should take the first of them for all
        these = "This is" if len(blocks) == 1 else "These are"
        click.echo(f"{these} {len(blocks):,} of {there:,} rejects; --rows {there} shows all.", err=True)
    return 0


def _output(given: Path) -> Path:
    """The output also where its `data` is given, as other readers open it: records and rejects lie beside that."""
    above = Layout(given.parent)
    return given.parent if given == above.data and above.internal.is_dir() else given


def _read(output: Path, rows: int, rejected: bool) -> "tuple[pa.Table, dict[str, dict[str, Any]], int]":
    """The first rows, what each task does (from the parts' footer), and how many such rows there are."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    place = output / "data" if (output / "data").exists() else output
    if not place.exists():
        raise InputError(f"'{output}' does not exist; give the output folder or the .parquet file of a run.")
    if place == output and (output / "_secbatch").exists():
        raise InputError(f"'{output}' has no results yet: no run has finished its first shard.")
    outputs = sorted(below.parent.name for below in place.glob("[!.]*/_secbatch"))
    if outputs:  # read as one dataset, they would be rows of all in the columns of the first
        raise InputError(f"'{output}' holds outputs ({listed(outputs)}); name the one to show.")
    try:
        place = place.resolve()  # the version of this moment, whatever is published meanwhile
        # Of a single file, folders such as day=5 above it are nobody's columns.
        dataset = ds.dataset(place, format="parquet", partitioning="hive" if place.is_dir() else None)
        footer = read_footer(dataset.schema.metadata)
        if not footer:
            raise InputError(f"'{output}' holds no results of secbatch; give the output of `secbatch run` or `enrich`.")
        wanted = pc.field("secbatch_status") == "rejected" if rejected else None
        there = dataset.count_rows(filter=wanted)
        table = _first(dataset, min(rows, there), wanted)
        return table, tasks_of(footer, table.schema), there
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and refuses_to_read(error):
            raise explain_read(error, output) from None
        reason = str(error).rsplit(": ", 1)[-1].rstrip(".")  # Arrow names its readers first, then what is wrong
        raise InputError(
            f"'{output}' cannot be read as Parquet ({reason}); give the output of `secbatch run` or `enrich`."
        ) from None


def _objects(table: "pa.Table") -> list[dict[str, Any]]:
    """The rows; as text, a column with times that Python has no objects for: DuckDB's `infinity`, an unknown zone."""
    from secbatch.row_hash import as_text

    columns = []
    for column in table.columns:
        try:
            columns.append(column.to_pylist())
        except NO_OBJECT:
            columns.append(as_text(column).to_pylist())
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def _unparseable(output: Path, rows: int) -> tuple[list[dict[str, Any]], int]:
    """What the latest run could not parse: no rows of the dataset, but rejected all the same.

    At most `rows` of it, and how much there is.
    """
    import pyarrow.dataset as ds

    if output.is_dir():
        folder = Layout(output).rejects
        files = sorted(folder.glob(f"{_latest_run(output)}-*.parquet"))
    else:
        files = [beside for beside in [rejects_beside(output)] if beside.exists()]
    if not files:
        return [], 0
    dataset = ds.dataset([str(file) for file in files], format="parquet")
    return _first(dataset, max(0, rows)).to_pylist(), dataset.count_rows()


def _first(dataset: "ds.Dataset", rows: int, wanted: "pc.Expression | None" = None) -> "pa.Table":
    """So many rows, row group by row group: a scan of all has gigabytes of those behind them in memory."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    schema, found, left = dataset.schema, [], rows
    for fragment in dataset.get_fragments(filter=wanted):
        if left <= 0:
            break
        for group in fragment.split_by_row_group(filter=wanted, schema=schema):
            found.append(ds.Scanner.from_fragment(group, schema=schema, filter=wanted).head(left))
            left -= found[-1].num_rows
            if left <= 0:
                break
    return pa.concat_tables([schema.empty_table(), *found])


def _latest_run(output: Path) -> str:
    """The newest run that got as far as reading; a pattern for any where none has left its record."""
    from secbatch.status import read_record

    runs = Layout(output).runs
    # Names begin with the time; which record is the newest does not depend on a clock that was turned back.
    for file in (runs / "latest.json", *sorted(runs.glob("[0-9]*.json"), reverse=True)):
        record = read_record(file)
        if record and record["state"] != "failed":
            return str(record["run"])
    return "*"


def _texts(table: "pa.Table", tasks: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Of each row what the tasks read, by the job's words for it: a column, a template, or one question for all."""
    from secbatch.tasks.text import question_source

    found: dict[str, list[str]] = {}
    for task in tasks.values():
        for key in ("question", "context", "text"):
            if (text := task.get(key)) is not None and text not in found:
                try:
                    rendered = question_source(text, table.schema, key).render(table).to_pylist()
                except JobError:  # a part of an older job, whose column is gone
                    rendered = [None] * table.num_rows
                found[text] = [one or "" for one in rendered]
    return [{text: rendered[row] for text, rendered in found.items()} for row in range(table.num_rows)]


def _lines(row: dict[str, Any], texts: dict[str, str], tasks: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Label and text, in the manner of a notebook: the input, the words, the question and its answer."""
    shown: set[str] = set()
    for name, task in tasks.items():
        kind = task["type"]
        source = texts[task["question" if kind == "qa" else "text"]]
        if not source or row.get(f"{name}{_FULLEST.get(kind, '')}") is None:
            continue
        read = [("Question" if kind in ("chat", "qa") else "Input", source)]
        read += [("Context", texts[task["context"]])] if kind == "qa" else []
        for label, text in read:
            if text not in shown:
                shown.add(text)
                yield label, text
        if kind == "fill-mask":
            yield from _words(row, name)
        else:
            yield name, _result(row, name, kind)
    if not shown:
        values = [
            f"{key}={value}" for key, value in row.items() if not key.startswith("secbatch_") and value is not None
        ]
        yield "Row", " · ".join(values)[:300]
    if row.get("secbatch_error"):
        yield "Rejected", _rejection(str(row["secbatch_error"]), row.get("secbatch_source"), row.get("secbatch_row"))


def _words(row: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Label and text of each mask."""
    predictions = row[f"{name}_predictions"]
    for number, words in enumerate(predictions, 1):
        label = f"{name} {number}" if len(predictions) > 1 else name
        yield label, " | ".join(word["token"] for word in words) or "(outside the model's window)"


def _result(row: dict[str, Any], name: str, kind: str) -> str:
    """What the task `name`, of any other kind, has made of a row."""
    value = row[name]
    if kind in ("chat", "seq2seq"):
        return str(value)
    if kind == "qa":
        score = f"{row[f'{name}_score']:.2f}"
        place = f"{score}, characters {row[f'{name}_start']} to {row[f'{name}_end']}"
        return f"(no answer, {score})" if value is None else f"{value} ({place})"
    if kind == "similarity":
        return " | ".join(f"{one['id']} {one['score']:.2f}" for one in value) or "(nothing near enough)"
    if kind == "classify":
        return _labels(row, name)
    if kind == "ner":
        return " | ".join(f"{span['text']} [{span['label']} {span['score']:.2f}]" for span in value) or "(no spans)"
    return f"[{', '.join(f'{x:.3f}' for x in value[:4])}, ...] ({counted(len(value), 'number')})"


def _rejection(error: str, source: str | None, row: int | None) -> str:
    """What is wrong with a row, after its place; a copy of the output may be without it."""
    if source is None or row is None:
        return error
    for place in (f"{source}, row {row}, ", f"Row {row}: "):
        error = error.removeprefix(place)
    return f"{source} row {row}: {error}"


def _labels(row: dict[str, Any], name: str) -> str:
    """The label or labels that were chosen, and the scores behind them."""
    best = [row[name]] if row[name] is not None else []
    chosen = row[f"{name}_labels"] if several_labels(name, list(row)) else best
    scores = " | ".join(f"{one['label']} {one['score']:.2f}" for one in row[f"{name}_scores"][:SHOWN_LABELS])
    return f"{', '.join(chosen) or '(none above the threshold)'} ({scores})"


def _reject_lines(reject: dict[str, Any]) -> list[tuple[str, str]]:
    place = f"{reject['source']} line {reject['line']}" if reject["line"] else str(reject["source"])
    return [("Rejected", f"{place}: {reject['reason']}"), ("Text", reject["raw"] or "")]


def _shortened(text: str) -> str:
    """What fits a screen; a document of megabytes would scroll everything else away."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"
