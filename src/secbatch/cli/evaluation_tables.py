"""Tables of an evaluation on a terminal."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secbatch.cli.terminal import printable
from secbatch.errors import counted, shown

if TYPE_CHECKING:
    from secbatch.comparison.evaluation import Evaluation, ModelFigures, Part
    from secbatch.evaluation.bootstrap import Interval

WIDTH_OF_CELL = 25  # 0.766 (0.731 to 0.801), and what stands between two
MOST_CONFUSED = 5
WIDTH_OF_FILES = 100  # off a terminal


def console() -> Console:
    """Standard output, plain: no markup in what comes from data."""
    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = WIDTH_OF_FILES
    return out


def print_tables(evaluation: "Evaluation") -> None:
    """All tables, on standard output."""
    out = console()
    groups = "" if evaluation.groups is None else f" · {counted(evaluation.groups, 'group')}"
    out.print(Text(f"{evaluation.objective} · {counted(evaluation.rows, 'row')}{groups}. {evaluation.method}"))
    out.print()
    out.print(_headline(evaluation))
    if evaluation.models[0].parts:
        out.print()
        out.print(_parts(evaluation, out.width))
    for model in evaluation.models:
        confused = _confused(model)
        if confused.row_count:
            out.print()
            out.print(confused)
    if evaluation.differences:
        out.print()
        out.print(_differences(evaluation))
    if any(one.low is not None for model in evaluation.models for one in model.figures.values()):
        out.print()
        out.print(Text(_footnote(evaluation)))


def plain_table(*columns: str, first: str) -> Table:
    """An empty table: a column of names, and one of numbers for each of `columns`."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(first), overflow="fold")
    for name in columns:
        table.add_column(Text(printable(name), overflow="fold"), justify="right", overflow="fold")
    return table


def _headline(evaluation: "Evaluation") -> Table:
    table = plain_table(*(model.name for model in evaluation.models), first="")
    for name in evaluation.headline:
        table.add_row(Text(name), *(cell(model.figures[name]) for model in evaluation.models))
    return table


def _parts(evaluation: "Evaluation", width: int) -> Table:
    """One model: all its figures by part. Several: the most telling figure, side by side."""
    (first, *others) = evaluation.models
    if not others:
        names = list(first.parts[0].figures)
        longest = max(len(shown(part.name)) for part in first.parts)
        table = plain_table("rows", *names, first=evaluation.parts_are)
        for part in first.parts:
            cells = (cell(part.figures[name], short=len(names) * WIDTH_OF_CELL + longest + 8 > width) for name in names)
            table.add_row(Text(printable(shown(part.name))), Text(f"{part.support:,}"), *cells)
        return table
    telling = next((name for name in evaluation.headline if name in first.parts[0].figures), None)
    figure = telling or next(iter(first.parts[0].figures))
    title = f"{figure} by {evaluation.parts_are}"
    table = plain_table("rows", *(model.name for model in evaluation.models), first=title)
    longest = max(len(title), *(len(shown(name)) for name, _ in _all_parts(evaluation.models)))
    short = len(evaluation.models) * WIDTH_OF_CELL + longest + 8 > width
    for name, support in _all_parts(evaluation.models):
        found = [_part(model, name) for model in evaluation.models]
        cells = (cell(part.figures[figure], short=short) if part else Text("–") for part in found)
        table.add_row(Text(printable(shown(name))), Text(f"{support:,}"), *cells)
    return table


def _all_parts(models: "tuple[ModelFigures, ...]") -> list[tuple[str, int]]:
    return sorted({part.name: part.support for model in models for part in model.parts}.items())


def _part(model: "ModelFigures", name: str) -> "Part | None":
    return next((part for part in model.parts if part.name == name), None)


def _confused(model: "ModelFigures") -> Table:
    """Which label is taken for which other most often."""
    table = plain_table("taken for", "rows", first=f"{printable(model.name)}: label")
    confusion = model.more.get("confusion")
    if confusion:
        names, matrix = confusion["labels"], confusion.get("true_by_predicted", ())
        cells = confusion.get("cells") or [(a, b, rows) for a, row in enumerate(matrix) for b, rows in enumerate(row)]
        wrong = [(a, b, rows) for a, b, rows in cells if a != b and rows]
        for a, b, rows in sorted(wrong, key=lambda cell: -cell[2])[:MOST_CONFUSED]:
            table.add_row(*(Text(printable(shown(names[place]))) for place in (a, b)), Text(f"{rows:,}"))
    return table


def _differences(evaluation: "Evaluation") -> Table:
    first = evaluation.models[0].name
    table = plain_table(*(one.second for one in evaluation.differences), first=f"difference to {printable(first)}")
    for name in evaluation.headline:
        cells = []
        for one in evaluation.differences:
            interval = one.figures[name]
            cells.append(cell(interval, signed=True))
            if interval.low is not None and interval.high is not None and (interval.low > 0 or interval.high < 0):
                cells[-1].stylize("bold")
                cells[-1].append(" *")
        table.add_row(Text(name), *cells)
    return table


def cell(interval: "Interval", signed: bool = False, short: bool = False) -> Text:
    """0.766 (0.731 to 0.801); without the interval where it is undefined, or too much for a table."""
    if interval.value is None:
        return Text("–")
    sign = "+" if signed else ""
    numbers = (interval.value, interval.low, interval.high)
    digits = 3 if max(abs(number) for number in numbers if number is not None) < 10 else 1
    value, *ends = (None if number is None else f"{number:{sign}.{digits}f}" for number in numbers)
    if short or None in ends:
        return Text(str(value))
    return Text(f"{value} ({ends[0]} to {ends[1]})")


def _footnote(evaluation: "Evaluation") -> str:
    drawn = "rows" if evaluation.groups is None else "groups"
    text = (
        f"In brackets: {evaluation.confidence:.0%} intervals, {counted(evaluation.samples, 'bootstrap resample')} of"
        f" {drawn}, seed {evaluation.seed}."
    )
    if evaluation.differences:
        text += " * The interval of the difference does not hold 0."
    return text
