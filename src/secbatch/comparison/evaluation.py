"""Models on a labelled file: figures with confidence intervals, model by model, and the differences between them."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import secbatch
from secbatch.comparison.predictions import Progress
from secbatch.evaluation.bootstrap import CONFIDENCE, Interval, Resampling
from secbatch.evaluation.tally import Figure, Tally
from secbatch.labelled.examples import DataFile
from secbatch.models.device import Compute
from secbatch.redaction import redacted

FEW = 10  # rows or groups: resamples of fewer are hardly different from each other
SCHEMA = 1  # of the JSON; raised when a key changes its meaning


@dataclass(frozen=True)
class Part:
    """A label, a type, a kind of word: figures of its own."""

    name: str
    support: int  # rows or spans of it in the data
    figures: Mapping[str, Interval]


@dataclass(frozen=True)
class Measured:
    """What an objective makes of one model's predictions."""

    tally: Tally  # of all rows; differences are taken of it
    # Name, support, figures, tally, and the rows that it is of; None: figures of the tally of all rows.
    parts: Sequence[tuple[str, int, Mapping[str, Figure], Tally, Sequence[int] | None]] = ()
    more: Mapping[str, Any] = field(default_factory=dict)  # besides, for the JSON: confusion, lenient figures, …


class Objective(Protocol):
    """A labelled file, the task that predicts its labels, and the figures that tell how well."""

    name: str
    method: str  # one sentence: what was measured, and how
    headline: tuple[str, ...]  # names of `figures` that a table of all shows, the most telling first
    parts_are: str  # what the parts are called: "label"; "" where there are none
    files: Sequence[DataFile]
    rows: int
    groups: Sequence[Hashable] | None

    @property
    def figures(self) -> Mapping[str, Figure]: ...

    def check(self, model: str) -> tuple[str, ...]:
        """Notices on a model before it is run; raises InputError for one that the labels do not fit."""
        ...

    def predict(self, model: str, compute: Compute, progress: Progress | None) -> Any: ...

    def measure(self, outcomes: Sequence[Any]) -> list[Measured]:
        """One for each model; all of them at once, as labels that only one predicts count for the others, too."""
        ...

    def notices(self, outcomes: Sequence[Any]) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class ModelFigures:
    name: str  # short
    about: Mapping[str, Any]
    figures: Mapping[str, Interval]
    parts: tuple[Part, ...]
    more: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Difference:
    """How much higher the figures of `second` are than those of `first`."""

    first: str
    second: str
    figures: Mapping[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """All that `secbatch evaluate` has to tell."""

    objective: str
    method: str
    headline: tuple[str, ...]
    parts_are: str
    files: tuple[DataFile, ...]
    rows: int
    groups: int | None
    samples: int
    seed: int
    confidence: float
    models: tuple[ModelFigures, ...]
    differences: tuple[Difference, ...]
    notices: tuple[str, ...]
    device: str
    precision: str  # or several, of models that do not run in the same

    def as_json(self) -> dict[str, Any]:
        """Undefined figures are null."""
        return {
            "schema": SCHEMA,
            "secbatch": secbatch.__version__,
            "objective": self.objective,
            "method": self.method,
            "data": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in self.files],
            "rows": self.rows,
            "bootstrap": {
                "samples": self.samples,
                "seed": self.seed,
                "confidence": self.confidence,
                "groups": self.groups,
            },
            "models": [
                {
                    "name": model.name,
                    **model.about,
                    "figures": {name: _plain(interval) for name, interval in model.figures.items()},
                    "parts": [
                        {
                            self.parts_are: part.name,
                            "support": part.support,
                            **{name: _plain(interval) for name, interval in part.figures.items()},
                        }
                        for part in model.parts
                    ],
                    **model.more,
                    "seconds": round(model.seconds, 3),
                }
                for model in self.models
            ],
            "differences": [
                {
                    "of": one.second,
                    "to": one.first,
                    "figures": {name: _plain(interval) for name, interval in one.figures.items()},
                }
                for one in self.differences
            ],
            "notices": list(map(redacted, self.notices)),
            "device": self.device,
            "precision": self.precision,
        }


def _plain(interval: Interval) -> dict[str, float | None]:
    return {
        name: None if value is None or not math.isfinite(value) else round(value, 6)
        for name, value in (("value", interval.value), ("low", interval.low), ("high", interval.high))
    }


def evaluate(
    objective: Objective,
    models: Sequence[str],
    names: Sequence[str],
    compute: Compute,
    samples: int,
    seed: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs each model over the objective's rows. `names`: the short names of `models`."""
    notices = [notice for model in models for notice in objective.check(model)]
    outcomes = [objective.predict(model, compute, progress) for model in models]
    measured = objective.measure(outcomes)
    resampling = Resampling(objective.rows, objective.groups, samples, seed)
    figures = objective.figures
    notices += objective.notices(outcomes)
    drawn = "row" if objective.groups is None else "group"
    if samples and resampling.units == 1:
        notices.append(f"there is only one {drawn}, so nothing can be said about others: no intervals")
    elif samples and resampling.units < FEW:
        notices.append(f"there are only {resampling.units} {drawn}s: the intervals are rough, and rather too narrow")
    told = tuple(
        ModelFigures(
            name,
            outcome.about,
            resampling.intervals(figures, one.tally),
            _parts(one, objective, samples, seed, resampling),
            one.more,
            outcome.seconds,
        )
        for name, outcome, one in zip(names, outcomes, measured, strict=True)
    )
    differences = tuple(
        Difference(names[0], name, resampling.differences(figures, measured[0].tally, one.tally))
        for name, one in zip(names[1:], measured[1:], strict=True)
    )
    return Evaluation(
        objective.name,
        objective.method,
        objective.headline,
        objective.parts_are,
        tuple(objective.files),
        objective.rows,
        resampling.units if objective.groups is not None else None,
        samples,
        seed,
        CONFIDENCE,
        told,
        differences,
        tuple(dict.fromkeys(notices)),
        compute.description,
        ", ".join(dict.fromkeys(outcome.precision for outcome in outcomes)),
    )


def _parts(measured: Measured, objective: Objective, samples: int, seed: int, all_rows: Resampling) -> tuple[Part, ...]:
    """Parts that are of all rows share one set of draws: fifty labels take no longer than one."""
    shared = {
        (name, key): figure
        for name, _, figures, _, rows in measured.parts
        if rows is None
        for key, figure in figures.items()
    }
    known = all_rows.intervals(shared, measured.tally)
    parts = []
    for name, support, figures, tally, rows in measured.parts:
        if rows is None:
            parts.append(Part(name, support, {key: known[name, key] for key in figures}))
            continue
        groups = None if objective.groups is None else [objective.groups[row] for row in rows]
        resampling = Resampling(len(rows), groups, samples, seed)
        parts.append(Part(name, support, resampling.intervals(figures, tally)))
    return tuple(parts)
