"""`secbatch models diff`: two models on a sample of an input."""

from typing import TYPE_CHECKING, Any

import click

from secbatch.cli import options
from secbatch.cli.figures import check_json_file, predicting, write_json
from secbatch.cli.terminal import bold, printable, sentence
from secbatch.errors import counted
from secbatch.working_folder import check_working_folder

if TYPE_CHECKING:
    from secbatch.comparison.found import Example
    from secbatch.comparison.model_diff import ModelsDiff

SHOWN = 10  # shares and changes
SHOWN_CHARACTERS = 300


@click.command("diff", short_help="Compare what two models say of the same rows.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--input", "path", required=True, metavar="FILE", help="CSV, Parquet or JSONL; no labels needed.")
@click.option("--text", required=True, metavar="COLUMN", help="A column, or a template with {columns}.")
@click.option("--question", metavar="COLUMN", help="Of qa: a column, a template, or one question; --text: its context.")
@click.option("--rows", type=click.IntRange(min=1, max=10_000), default=1000, show_default=True, help="Of the sample.")
@click.option(
    "--task",
    "kind",
    type=click.Choice(["fill-mask", "embed", "classify", "ner", "qa", "seq2seq"]),
    help="What to compare them in; what both are made for when not given.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sample.")
@click.option("--json", "json_file", metavar="FILE", help="Write all of it there; - is standard output.")
@options.device
@options.precision
def diff(
    first: str,
    second: str,
    path: str,
    text: str,
    question: str | None,
    rows: int,
    kind: Any,
    seed: int,
    json_file: str | None,
    device: str,
    precision: str,
) -> int:
    """Compare what models A and B say of the same rows: agreement, shifts, and examples.

    \b
    secbatch models diff techniques runs/new --input reports.csv --text sentence
    """
    check_working_folder()
    from secbatch.comparison.model_diff import common_kind, diff_models
    from secbatch.comparison.predictions import named_apart
    from secbatch.comparison.sample import sample_texts
    from secbatch.models.device import choose
    from secbatch.models.untrusted_text import MASK

    check_json_file(json_file)
    one, other = named_apart([first, second])
    kind = kind or common_kind(first, second)
    if (kind == "qa") != (question is not None):
        raise click.UsageError("--question goes with models that answer questions (qa), and with these alone")
    sample = sample_texts(path, text, rows, seed, MASK if kind == "fill-mask" else None, question)
    compute = choose(device, precision)
    with predicting(2 * len(sample.texts)) as progress:
        found = diff_models((first, second), (one, other), kind, sample, path, compute, seed, progress)
    for notice in found.notices:
        click.echo(sentence(notice), err=True)
    try:  # before what is printed, whose reader may have seen enough (`| head`), and that whatever becomes of the file
        if json_file:
            write_json(json_file, found.as_json())
    finally:
        if json_file != "-":
            _print(found)
    return 0


def _print(diff: "ModelsDiff") -> None:
    from rich.text import Text

    from secbatch.cli.evaluation_tables import cell, console, plain_table

    found, (first, second) = diff.found, diff.names
    out = console()
    of = f"{diff.rows:,} of {counted(diff.rows_of_input, 'row')}"
    what = f"{diff.kind} · {of} · {counted(found.count, found.units.removesuffix('s'))} compared"
    out.print(Text(f"{printable(first)} → {printable(second)} · {what}"))
    out.print()
    table = plain_table("", "95% interval", first="")
    for name, interval in found.figures.items():
        value, _, ends = cell(interval).plain.partition(" ")
        table.add_row(Text(name), Text(value), Text(ends.strip("()")))
    out.print(table)
    if found.shares:
        out.print()
        table = plain_table(first, second, "shift", first="share of")
        for share in found.shares[:SHOWN]:
            shift = f"{share.second - share.first:+.1%}"
            table.add_row(
                Text(printable(share.name)), Text(f"{share.first:.1%}"), Text(f"{share.second:.1%}"), Text(shift)
            )
        out.print(table)
        _rest(len(found.shares) - SHOWN, "more")
    if found.changes:
        out.print()
        table = plain_table("times", first=f"{printable(first)} → {printable(second)}")
        for change in found.changes[:SHOWN]:
            table.add_row(Text(f"{printable(change.first)} → {printable(change.second)}"), Text(f"{change.count:,}"))
        out.print(table)
        _rest(len(found.changes) - SHOWN, "more kinds of changes")
    for example in found.examples:
        _print_example(example, first, second)


def _rest(count: int, what: str) -> None:
    if count > 0:
        click.echo(f"… and {count:,} {what}")


def _print_example(example: "Example", first: str, second: str) -> None:
    click.echo()
    place = bold(f"{printable(example.place)}:")
    click.echo(f"{place} {_shortened(example.text)}")
    width = max(len(first), len(second))
    for name, said in ((first, example.first), (second, example.second)):
        click.echo(f"  {printable(name):<{width}}  {_shortened(said)}")


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
