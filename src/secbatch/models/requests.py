"""What tasks ask of an encoder that they share, and how several requests become one pass through it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from secbatch.models.batch_runner import BatchReport
from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.transfer import Made

HeadKind = Literal["masked-lm", "sequence-classification", "token-classification", "question-answering"]
Wanted = Callable[[TokenSequences], np.ndarray | None]
Consume = Callable[[np.ndarray, TokenSequences, torch.Tensor], Iterable[Made]]


@dataclass(frozen=True)
class Request:
    """Sequences of one task, and what it does with what the model makes of them.

    `wanted`: sequences to the flat positions [m], ascending, whose states are wanted; None for all of them.
    `consume`: rows [r] of `sequences`, longest first; these sequences; their states [m, width], in their order; to what
    the device makes of them. It may be called again for rows that it has seen, when memory ran out amid a batch.
    """

    sequences: TokenSequences
    wanted: Wanted
    consume: Consume
    head: HeadKind | None = None  # the states are for `logits_of` of this head; None: they are hidden states


def all_states(sequences: TokenSequences) -> None:
    """For `Request.wanted`: the states of all positions."""


@dataclass(frozen=True)
class Share:
    """What of a batch is one request's."""

    rows: np.ndarray  # of the request
    sequences: TokenSequences
    at: np.ndarray | None  # flat positions in the batch, None: all of it


def share_of(request: Request, own: np.ndarray, batch: TokenSequences) -> Share | None:
    """`own`: [rows of the batch] the request's row, -1 where it has none."""
    members = np.flatnonzero(own >= 0)
    if not len(members):
        return None
    if len(members) == len(own):
        return Share(own, batch, request.wanted(batch))
    sequences = batch.select(members)
    places = spans(batch.offsets[:-1][members], sequences.lengths)
    wanted = request.wanted(sequences)
    return Share(own[members], sequences, places if wanted is None else places[wanted])


def united(parts: list[TokenSequences]) -> tuple[TokenSequences, list[np.ndarray]]:
    """All different sequences, and for each part which of its rows each of them is (-1: none), [u] each."""
    if all(part.same_as(parts[0]) for part in parts[1:]):  # one task, or several over one column of short texts
        return parts[0], [np.arange(len(parts[0])) for _ in parts]
    number: dict[tuple[bytes, int], int] = {}
    whole = TokenSequences.joined(parts)
    first: list[int] = []  # of each different sequence, its row in `whole`
    owners: list[dict[int, int]] = []
    before = 0
    for part in parts:
        times: dict[bytes, int] = {}
        mine: dict[int, int] = {}
        for row in range(len(part)):
            key = part[row].tobytes() + (b"" if part.types is None else part.types_of(row).tobytes())
            # A part's own rows stay apart, even when they look alike to the model.
            times[key] = times.get(key, 0) + 1
            place = number.setdefault((key, times[key]), len(number))
            if place == len(first):
                first.append(before + row)
            mine[place] = row
        owners.append(mine)
        before += len(part)
    rows_of = []
    for mine in owners:
        rows = np.full(len(first), -1, np.int64)
        rows[list(mine.keys())] = list(mine.values())
        rows_of.append(rows)
    return whole.select(np.array(first, np.int64)), rows_of


def own_report(report: BatchReport, own: np.ndarray, number: int) -> BatchReport:
    """What of a common pass is request `number`'s: errors of its rows, `own` [u]; the tokens are in the first one's."""
    errors = {int(own[row]): text for row, text in report.errors.items() if own[row] >= 0}
    return replace(report, errors=errors) if number == 0 else BatchReport(errors=errors, flights=report.flights)
