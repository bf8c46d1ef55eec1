"""`secbatch evaluate`: models on a labelled file, side by side."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secbatch.cli import options
from secbatch.cli.figures import check_json_file, predicting, write_json
from secbatch.cli.terminal import bold, printable, sentence
from secbatch.errors import InputError, JobError
from secbatch.extras import check_extra
from secbatch.quiet_matplotlib import check_matplotlib
from secbatch.working_folder import check_working_folder

if TYPE_CHECKING:
    from secbatch.comparison.evaluation import Objective
    from secbatch.labelled.files import LabelledFiles

OBJECTIVES = ("classify", "ner", "qa", "fill-mask", "masked-lm")
# Of a finetune job, in the sentences of what reads labelled files.
_KEYS = re.compile(
    r"\bdata\.(text|label|label_delimiter|spans|question|context|answer|answer_start|group|format|delimiter|encoding)"
    r"\b(?![/.])"
)
_WITH_VALUE = re.compile(r"(?<=[ `])data\.(format|delimiter|encoding): ")  # not where a sentence begins with the key
# Which options an objective takes; others are refused.
_TAKES = {
    "classify": ("text", "label", "label_delimiter", "group", "threshold", "unknown_labels", "like"),
    "ner": ("text", "spans", "group", "unknown_labels", "like"),
    "qa": ("question", "context", "answer", "answer_start", "group", "no_answer_threshold", "like"),
    "fill-mask": ("text", "label", "label_delimiter", "part", "group", "top_k", "like"),
    "masked-lm": ("text", "group"),
}
_NEEDS = {
    "classify": ("text", "label"),
    "ner": (),
    "qa": (),
    "fill-mask": ("text", "label"),
    "masked-lm": ("text",),
}


@click.command(short_help="Measure models on a labelled file.")
@click.argument("models", metavar="MODEL [MODEL ...]", nargs=-1, required=True)
@click.option("--data", metavar="FILE", help="Labelled CSV, Parquet, JSONL or (ner) CoNLL: file, glob or folder.")
@click.option("--objective", type=click.Choice(OBJECTIVES), help="What the labels are.")
@click.option("--text", metavar="COLUMN", help="A column, or a template with {columns}.")
@click.option("--label", metavar="COLUMN", help="classify: the label. fill-mask: the word behind <mask>.")
@click.option("--label-delimiter", metavar="SIGN", help="Splits several labels (or right words) in one value.")
@click.option("--spans", metavar="COLUMN", help="ner: lists of {start, end, label}.  [default: spans]")
@click.option("--question", metavar="COLUMN", help="qa.  [default: question]")
@click.option("--context", metavar="COLUMN", help="qa.  [default: context]")
@click.option("--answer", metavar="COLUMN", help="qa: empty where there is none.  [default: answer]")
@click.option("--answer-start", metavar="COLUMN", help="qa.  [default: answer_start]")
@click.option("--part", metavar="COLUMN", help="fill-mask: the kind of word (object, verb); figures for each.")
@click.option("--group", metavar="COLUMN", help="Rows that belong together (a document): resampled together.")
@click.option("--top-k", type=click.IntRange(1, 500), help="fill-mask: how many predictions count.  [default: 10]")
@click.option("--threshold", type=click.FloatRange(0, 1), help="classify: of several labels a row.")
@click.option("--no-answer-threshold", type=float, metavar="NUMBER", help="qa: as in the task.  [default: 0]")
@click.option(
    "--unknown-labels",
    type=click.Choice(["refuse", "count"]),
    help="Labels that a model does not know.  [default: refuse]",
)
@click.option("--like", metavar="JOB.yaml:TASK", help="Settings (template, threshold, ...) as this task has them.")
@click.option(
    "--format",
    "format_named",
    type=click.Choice(["csv", "parquet", "jsonl", "conll"]),
    help="Of FILE; by the ending of its name when not given.",
)
@click.option("--delimiter", metavar="CHARACTER", help="Of a CSV file; found in its header when not given.")
@click.option("--encoding", metavar="NAME", help="Of FILE: cp1252, utf-16, ...; UTF-8 when not given.")
@click.option(
    "--malformed",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="Rows that give no example.",
)
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="Only the first N examples.")
@click.option("--samples", type=click.IntRange(0, 100_000), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of bootstrap and masking.")
@click.option("--json", "json_file", metavar="FILE", help="Write all figures there; - is standard output.")
@click.option("--plot", "plot_file", metavar="FILE", help="Draw them into a .png, .svg or .pdf.")
@click.option(
    "--published", is_flag=True, help="Instead of --data: the predictions that SecureBERT's authors published."
)
@options.device
@options.precision
def evaluate(
    models: tuple[str, ...],
    data: str | None,
    objective: str | None,
    format_named: str | None,
    delimiter: str | None,
    encoding: str | None,
    malformed: str,
    rows: int | None,
    samples: int,
    seed: int,
    json_file: str | None,
    plot_file: str | None,
    published: bool,
    device: str,
    precision: str,
    **columns: Any,
) -> int:
    """Measure each MODEL on a labelled file, with confidence intervals; the first is what the others are compared to.

    \b
    secbatch evaluate topics runs/new --data test.csv --objective classify \\
        --text text --label label --group report --plot figures.png
    secbatch evaluate runs/ner --data test.conll --objective ner
    secbatch evaluate --published securebert
    """
    check_working_folder()
    if published:
        given = [data, objective, format_named, delimiter, encoding, json_file, plot_file, rows, *columns.values()]
        return _published(models, any(value is not None for value in given), device, precision)
    if data is None or objective is None:
        raise click.UsageError("Say what to measure on: --data FILE and --objective (or --published).")
    _check_columns(objective, columns)
    _check_installed(objective, plot=plot_file is not None)
    from secbatch.comparison import plot
    from secbatch.comparison.evaluation import evaluate as measure
    from secbatch.comparison.predictions import named_apart
    from secbatch.models.device import choose

    if plot_file:
        plot.check_plot_file(Path(plot_file))
    check_json_file(json_file)
    names = named_apart(list(models))
    with _in_options():
        files = _files(train=data, format=format_named, delimiter=delimiter, encoding=encoding, malformed=malformed)
        question = _objective(objective, files, rows, seed, columns)
        compute = choose(device, precision)
        with predicting(question.rows * len(models)) as progress:
            evaluation = measure(question, models, names, compute, samples, seed, progress)
    for notice in evaluation.notices:
        click.echo(sentence(notice), err=True)
    try:  # before the tables, whose reader may have seen enough (`| head`), and these whatever becomes of the files
        if json_file:
            write_json(json_file, evaluation.as_json())
        if plot_file:
            plot.plot(evaluation, Path(plot_file))
    finally:
        if json_file != "-":
            from secbatch.cli.evaluation_tables import print_tables

            print_tables(evaluation)
    return 0


def _files(**options: str | None) -> "LabelledFiles":
    """As the same keys of a training job have it. Raises JobError for what none of them may be."""
    from secbatch.finetune_job import Data
    from secbatch.jobfile import validate_as
    from secbatch.labelled.files import LabelledFiles

    data = validate_as(Data, {key: value for key, value in options.items() if value is not None}, "the options")
    return LabelledFiles(data.train, data.format, data.delimiter, data.encoding, data.malformed)


def _objective(name: str, files: "LabelledFiles", rows: int | None, seed: int, columns: dict[str, Any]) -> "Objective":
    given = {key: value for key, value in columns.items() if value is not None}
    if "like" in given:
        from secbatch.comparison.like_job import settings_like

        given["like"] = settings_like(given["like"], name)
    if name == "classify":
        from secbatch.comparison.classification import Classification

        return Classification(files, limit=rows, **given)
    if name == "ner":
        from secbatch.comparison.entities import Entities

        return Entities(files, limit=rows, **given)
    if name == "qa":
        from secbatch.comparison.questions import Questions

        return Questions(files, limit=rows, **given)
    if name == "masked-lm":
        from secbatch.comparison.hidden_words import HiddenWords

        return HiddenWords(files, limit=rows, seed=seed, **given)
    from secbatch.comparison.masked_words import MaskedWords

    return MaskedWords(files, limit=rows, **given)


def _check_columns(objective: str, columns: dict[str, Any]) -> None:
    """An option that changes nothing would be a false promise."""
    for name, value in columns.items():
        if value is not None and name not in _TAKES[objective]:
            raise click.UsageError(f"--{name.replace('_', '-')} has no meaning for --objective {objective}.")
    missing = [f"--{name}" for name in _NEEDS[objective] if columns[name] is None]
    if missing:
        raise click.UsageError(f"--objective {objective} needs {' and '.join(missing)}.")


def _check_installed(objective: str, plot: bool) -> None:
    needed = {"classify": ["sklearn"], "ner": ["nervaluate"]}
    check_extra(f"--objective {objective}", needed.get(objective, []), "finetune")
    if plot:
        check_extra("--plot", ["matplotlib"], "finetune")
        check_matplotlib()


@contextmanager
def _in_options() -> Iterator[None]:
    """Sentences about a job's keys become sentences about this command's options."""
    try:
        yield
    except (InputError, JobError) as error:
        text = str(error).replace("set data.malformed: skip", "say --malformed skip")
        text = _KEYS.sub(lambda key: f"--{key[1].replace('_', '-')}", _WITH_VALUE.sub(r"--\1 ", text))
        raise type(error)(text) from None


def _published(models: tuple[str, ...], more: bool, device: str, precision: str) -> int:
    from secbatch.cli.published import print_published

    if more:
        raise click.UsageError("--published brings its own sentences; give it models, --device and --precision alone.")
    for number, model in enumerate(models):
        if len(models) > 1:
            click.echo(("\n" if number else "") + bold(printable(model)))
        print_published(model, device, precision)
    return 0
