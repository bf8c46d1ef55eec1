"""Scores of labels as columns, built from arrays."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from secbatch.models.batch_runner import BatchReport
from secbatch.models.sequences import spans
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import broken_scores, done_texts, without_failed
from secbatch.tasks.label_names import Problem
from secbatch.tasks.repeats import Recalled, Repeats
from secbatch.tasks.row_arrays import offsets, spread

_SCORE = pa.struct([pa.field("label", pa.string()), pa.field("score", pa.float32())])


@dataclass(frozen=True)
class Labelling:
    """How scores become columns."""

    labels: tuple[str, ...]
    problem: Problem
    kept: int  # how many labels' scores are kept, the best first
    threshold: float | None


@dataclass(frozen=True)
class Scored:
    """Scores of the u texts of a shard that were computed."""

    recalled: Recalled
    truncated: np.ndarray  # [u] bool
    scores: np.ndarray  # [u, labels] float32
    errors: dict[int, str]  # text -> one sentence
    tokens: int
    padding: int


def scored(recalled: Recalled, truncated: np.ndarray, scores: np.ndarray, report: BatchReport, model: str) -> Scored:
    """What `model` gave for u texts (see Scored); those whose scores are no numbers are errors."""
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist()
    errors = report.errors | dict.fromkeys(broken, broken_scores(model))
    return Scored(recalled, truncated, scores, errors, report.tokens, report.padding)


def label_fields(name: str, problem: Problem) -> tuple[pa.Field, ...]:
    """The columns of a task `name` that labels texts."""
    several = [pa.field(f"{name}_labels", pa.list_(pa.string()))] if problem == "multi-label" else []
    return (
        pa.field(name, pa.string()),
        pa.field(f"{name}_score", pa.float32()),
        *several,
        pa.field(f"{name}_scores", pa.list_(_SCORE)),
        pa.field(f"{name}_truncated", pa.bool_()),
    )


def label_columns(name: str, computed: Scored, repeats: Repeats, labelling: Labelling) -> TaskColumns:
    """Columns of n rows, those whose results were known included; what is new is remembered in `repeats`."""
    recalled, scores, truncated = computed.recalled, computed.scores, computed.truncated
    rows, errors = without_failed(recalled.rows, computed.errors)
    packed = np.concatenate([scores, truncated[:, None]], axis=1, dtype=np.float32)  # [u, labels + 1]
    if len(recalled.keys):
        good = done_texts(len(scores), computed.errors)
        sizes = np.full(int(good.sum()), packed.shape[1] * packed.itemsize)
        repeats.add(recalled.keys[good], packed[good].reshape(-1).view(np.uint8), sizes)
    if recalled.results:
        known = np.frombuffer(b"".join(recalled.results), np.float32).reshape(-1, packed.shape[1])
        packed = np.concatenate([packed, known])
    done = rows >= 0
    values = packed[rows[done]]
    arrays = _arrays(values[:, :-1], values[:, -1] != 0, done, labelling)
    fields = label_fields(name, labelling.problem)
    columns = {one.name: array for one, array in zip(fields, arrays, strict=True)}
    return TaskColumns(columns, errors, computed.tokens, computed.padding)


def _arrays(scores: np.ndarray, truncated: np.ndarray, done: np.ndarray, labelling: Labelling) -> list[pa.Array]:
    """`scores` [d, labels] and `truncated` [d] of the rows that are `done` [n] to arrays of n rows."""
    names = pa.array(labelling.labels, pa.string())
    order = np.argsort(-scores, axis=1, kind="stable")  # [d, labels] labels, best first
    ranked = np.take_along_axis(scores, order, axis=1)
    above = np.ones(ranked.shape, bool) if labelling.threshold is None else ranked >= labelling.threshold
    kept = min(labelling.kept, scores.shape[1])
    pairs = pa.StructArray.from_arrays(
        [names.take(pa.array(order[:, :kept].ravel())), pa.array(ranked[:, :kept].ravel())], fields=list(_SCORE)
    )
    best = spread(order[:, 0], done)
    unclear = ~done
    unclear[done] = ~above[:, 0]
    arrays = [
        names.take(pa.array(best, mask=unclear)),
        pa.array(spread(ranked[:, 0], done), mask=~done),
        pa.ListArray.from_arrays(offsets(np.where(done, kept, 0)), pairs, mask=pa.array(~done)),
        pa.array(spread(truncated, done), mask=~done),
    ]
    if labelling.problem == "multi-label":
        counts = above.sum(axis=1)  # the best ones come first
        places = spans(np.arange(len(order)) * order.shape[1], counts)
        members = names.take(pa.array(order.ravel()[places]))
        arrays.insert(2, pa.ListArray.from_arrays(offsets(spread(counts, done)), members, mask=pa.array(~done)))
    return arrays
