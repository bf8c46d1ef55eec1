"""The figures of an evaluation as a picture: headline figures with their intervals, and the parts below."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secbatch import file_size_limit
from secbatch.comparison.evaluation import Evaluation
from secbatch.errors import JobError, OutputError, counted
from secbatch.evaluation.bootstrap import Interval
from secbatch.quiet_matplotlib import quiet_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")  # Okabe and Ito
MOST_PARTS = 60


def check_plot_file(path: Path) -> None:
    """Raises JobError or OutputError for a file that no plot can be written to."""
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise JobError(f"'{path}' cannot be a plot: its ending must be one of {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise JobError(f"'{path}' cannot be written: there is no folder {path.absolute().parent}")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise OutputError(f"'{path}' may not be written; mend its rights, or name another place.")


def plot(evaluation: Evaluation, path: Path) -> None:
    """Writes the picture; the file's ending names its format."""
    with quiet_matplotlib():
        _plot(evaluation, path)


def _plot(evaluation: Evaluation, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    parts = _parts(evaluation)
    count = len(evaluation.models)
    height = 1.0 + 0.22 * max(count, 2) * len(evaluation.headline)
    low = 0.9 + (0.16 * count + 0.08) * len(parts) if parts else 0.0
    plain: Any = {"svg.hashsalt": "secbatch", "text.usetex": False, "text.parse_math": False}
    with pyplot.rc_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # labels may be in any script; the JSON has them all
        figure = Figure(figsize=(8, height + low + 0.5), layout="constrained")
        ratios = [height, low] if parts else [height]
        axes = figure.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
        _headline(axes[0], evaluation)
        if parts:
            _by_part(axes[1], evaluation, parts)
        groups = "" if evaluation.groups is None else f" of {counted(evaluation.groups, 'group')}"
        drawn = any(one.low is not None for model in evaluation.models for one in model.figures.values())
        bars = f"; bars: {evaluation.confidence:.0%} intervals" if drawn else ""
        figure.suptitle(f"{evaluation.objective}, {counted(evaluation.rows, 'row')}{groups}{bars}", fontsize=10)
        if count > 1:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(count, 4))
        try:
            figure.savefig(path, dpi=150, metadata=_undated(path))
        except OSError as error:
            if too_large := file_size_limit.refused(error, path):
                raise too_large from None
            raise OutputError(f"'{path}' cannot be written ({error.strerror or error})") from None


def _undated(path: Path) -> dict[str, Any]:
    """The same figures give the same bytes."""
    dates: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}}
    return dates.get(path.suffix.lower(), {"CreationDate": None})


def _headline(axes: "Axes", evaluation: Evaluation) -> None:
    rows = [[model.figures[name] for name in evaluation.headline] for model in evaluation.models]
    _dots(axes, list(evaluation.headline), rows, [model.name for model in evaluation.models])


def _by_part(axes: "Axes", evaluation: Evaluation, parts: list[tuple[str, int]]) -> None:
    figure = _part_figure(evaluation)
    rows = []
    for model in evaluation.models:
        known = {part.name: part.figures.get(figure, Interval(None)) for part in model.parts}
        rows.append([known.get(name, Interval(None)) for name, _ in parts])
    _dots(axes, [f"{_shown(name)} ({support:,})" for name, support in parts], rows, None)
    axes.set_title(f"{figure} by {evaluation.parts_are} (how often it occurs)", fontsize=9)
    axes.tick_params(axis="y", labelsize=7)


def _dots(axes: "Axes", names: list[str], rows: list[list[Interval]], models: list[str] | None) -> None:
    """One line for each name, the models' dots below each other with their intervals."""
    step = 0.8 / max(len(rows), 2)
    for number, intervals in enumerate(rows):
        heights = [place + (number - (len(rows) - 1) / 2) * step for place in range(len(names))]
        known = [(height, one) for height, one in zip(heights, intervals, strict=True) if one.value is not None]
        values = [one.value or 0.0 for _, one in known]
        errors = [
            [max(0.0, (one.value or 0.0) - (one.low if one.low is not None else one.value or 0.0)) for _, one in known],
            [
                max(0.0, (one.high if one.high is not None else one.value or 0.0) - (one.value or 0.0))
                for _, one in known
            ],
        ]
        axes.errorbar(
            values,
            [height for height, _ in known],
            xerr=errors,
            fmt="o",
            markersize=4,
            capsize=2,
            linewidth=1,
            color=COLOURS[number % len(COLOURS)],
            label=_shown(models[number]) if models else None,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    largest = max((one.high or one.value or 0.0 for row in rows for one in row), default=0.0)
    if largest <= 1:
        axes.set_xlim(-0.01, 1.01)
    else:
        axes.set_xlim(left=0)
    axes.grid(axis="x", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _parts(evaluation: Evaluation) -> list[tuple[str, int]]:
    """Names and how often they occur, the most frequent first, as many as fit a picture."""
    support = {part.name: part.support for model in evaluation.models for part in model.parts}
    return sorted(support.items(), key=lambda one: (-one[1], one[0]))[:MOST_PARTS]


def _part_figure(evaluation: Evaluation) -> str:
    names = [name for model in evaluation.models for part in model.parts for name in part.figures]
    return next((name for name in evaluation.headline if name in names), names[0])


def _shown(text: str) -> str:
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 48 else f"{text[:45]}..."
