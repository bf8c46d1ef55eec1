"""One encoder for all tasks that name the same model: loaded once, and one forward for the texts that they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secbatch.models.batch_runner import BatchReport, BatchRunner
from secbatch.models.device import Compute
from secbatch.models.encoder import HiddenStates, MaskedLM, hidden_states
from secbatch.models.load import check_vocabulary, load_model, load_tokenizer
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences, spans

Wanted = Callable[[TokenSequences], np.ndarray | None]
Consume = Callable[[np.ndarray, TokenSequences, torch.Tensor], None]


@dataclass(frozen=True)
class Request:
    """Sequences of one task, and what it does with what the model makes of them.

    `wanted`: sequences to the flat positions [m], ascending, whose states are wanted; None for all of them.
    `consume`: rows [r] of `sequences`, longest first; these sequences; their states [m, width], in their order.
    It may be called again for rows that it has seen, when memory ran out amid a batch.
    """

    sequences: TokenSequences
    wanted: Wanted
    consume: Consume
    logits: bool = False  # the states are for `MaskedLM.logits_of`


class SharedEncoder:
    """A model with its tokenizer; tasks say what they need of it before it is loaded."""

    def __init__(self, model: ResolvedModel, compute: Compute, scratch: Path | None = None) -> None:
        """`scratch`: a folder for what tasks remember of a run; None: they remember nothing.

        Raises ModelError when the model's files are missing or broken. Loads no weights.
        """
        self.model, self.compute, self.scratch = model, compute, scratch
        self.tokenizer = load_tokenizer(model)
        self.notices = compute.notices
        self._runner = BatchRunner(compute)
        self._needs: set[str] = set()
        self._lm: MaskedLM | None = None
        self._hidden: HiddenStates | None = None
        self._loaded = False

    def need_logits(self) -> None:
        self._needs.add("logits")

    def need_states(self) -> None:
        self._needs.add("states")

    @property
    def batch_free(self) -> bool:
        """Whether a text has the same results, bit for bit, whatever else is in its batch.

        Then a result may stand for later rows with the same text. In bfloat16 nobody counts on the last bits.
        """
        if self.compute.dtype != "float32":
            return True
        states = self._hidden is None or (self._hidden.packed and self._hidden.batch_free)
        return states and (self._lm is None or self._lm.batch_free)

    @property
    def token_budget(self) -> int:
        """The most tokens in a batch; halved, for good, when the device's memory runs out."""
        return self._runner.token_budget

    @token_budget.setter
    def token_budget(self, tokens: int) -> None:
        self._runner.token_budget = tokens

    @property
    def lm(self) -> MaskedLM:
        assert self._lm is not None, "need_logits() and load() come first"
        return self._lm

    def load(self) -> None:
        """Brings the weights to the device, once. Raises ModelError when they do not serve."""
        if self._loaded:
            return
        base: Any = None
        if "logits" in self._needs:
            loaded = load_model(self.model, "masked-lm", self.compute)
            check_vocabulary(self.model, self.tokenizer, loaded.model)
            self._lm = MaskedLM(loaded, self.tokenizer.pad_id, self.compute)
            self.notices = (*self.compute.notices, *loaded.notices)
            base = loaded.model.base_model
        if "states" in self._needs:
            if self._lm is not None and self._lm.hidden is not None and _is_the_encoder(base):
                self._hidden = self._lm.hidden
            else:
                loaded = load_model(self.model, "encoder", self.compute)
                check_vocabulary(self.model, self.tokenizer, loaded.model)
                self._hidden = hidden_states(loaded.model, self.tokenizer.pad_id, self.compute)
                self.notices = tuple(dict.fromkeys((*self.notices, *loaded.notices)))
        self._loaded = True

    @torch.inference_mode()
    def width(self) -> int:
        """Values of one hidden state."""
        assert self._hidden is not None, "need_states() and load() come first"
        return int(self._hidden(self.tokenizer.encode(["a"])).shape[-1])

    def run(self, requests: Sequence[Request]) -> list[BatchReport]:
        """Does all requests; sequences that several of them have go through the model once.

        A report for each: its own rows' errors; the tokens of a common forward are in the first one's.
        """
        together = self._lm is None or self._hidden is None or self._lm.hidden is self._hidden
        passes = (
            [list(range(len(requests)))]
            if together
            else [[place for place, one in enumerate(requests) if one.logits is kind] for kind in (True, False)]
        )
        reports: list[BatchReport | None] = [None] * len(requests)
        for places in passes:
            if places:
                done = self._pass([requests[place] for place in places])
                for place, report in zip(places, done, strict=True):
                    reports[place] = report
        return [report for report in reports if report is not None]

    def _pass(self, requests: list[Request]) -> list[BatchReport]:
        model: MaskedLM | HiddenStates | None = self._lm if requests[0].logits else self._hidden
        assert model is not None, "load() comes first"
        forward = model.states if isinstance(model, MaskedLM) else model
        sequences, rows_of = _united([request.sequences for request in requests])

        def work(rows: np.ndarray, batch: TokenSequences) -> None:
            shares = [
                (request, share)
                for request, own in zip(requests, rows_of, strict=True)
                if (share := _share(request, own[rows], batch)) is not None
            ]
            wanted = [share.at for _, share in shares if share.at is not None]
            at = np.unique(np.concatenate(wanted)) if len(wanted) == len(shares) else None
            states = forward(batch, at)
            for request, share in shares:
                mine = states
                if share.at is not None and len(share.at) != len(states):
                    index = share.at if at is None else np.searchsorted(at, share.at)
                    mine = states[torch.from_numpy(index).to(states.device)]
                request.consume(share.rows, share.sequences, mine)

        report = self._runner.run(sequences, not model.packed, work)
        return [_own_report(report, own, number) for number, own in enumerate(rows_of)]


@dataclass(frozen=True)
class _Share:
    """What of a batch is one request's."""

    rows: np.ndarray  # of the request
    sequences: TokenSequences
    at: np.ndarray | None  # flat positions in the batch, None: all of it


def _share(request: Request, own: np.ndarray, batch: TokenSequences) -> _Share | None:
    """`own`: [rows of the batch] the request's row, -1 where it has none."""
    members = np.flatnonzero(own >= 0)
    if not len(members):
        return None
    if len(members) == len(own):
        return _Share(own, batch, request.wanted(batch))
    sequences = batch.select(members)
    places = spans(batch.offsets[:-1][members], sequences.lengths)
    wanted = request.wanted(sequences)
    return _Share(own[members], sequences, places if wanted is None else places[wanted])


def _united(parts: list[TokenSequences]) -> tuple[TokenSequences, list[np.ndarray]]:
    """All different sequences, and for each part which of its rows each of them is (-1: none), [u] each."""
    if len(parts) == 1:
        return parts[0], [np.arange(len(parts[0]))]
    number: dict[tuple[bytes, int], int] = {}
    first: list[np.ndarray] = []
    owners: list[dict[int, int]] = []
    for part in parts:
        times: dict[bytes, int] = {}
        mine: dict[int, int] = {}
        for row in range(len(part)):
            key = part[row].tobytes()
            # A part's own rows stay apart, even when they look alike to the model.
            times[key] = times.get(key, 0) + 1
            place = number.setdefault((key, times[key]), len(number))
            if place == len(first):
                first.append(part[row])
            mine[place] = row
        owners.append(mine)
    rows_of = []
    for mine in owners:
        rows = np.full(len(first), -1, np.int64)
        rows[list(mine.keys())] = list(mine.values())
        rows_of.append(rows)
    return TokenSequences.of(first), rows_of


def _own_report(report: BatchReport, own: np.ndarray, number: int) -> BatchReport:
    errors = {int(own[row]): text for row, text in report.errors.items() if own[row] >= 0}
    return replace(report, errors=errors) if number == 0 else BatchReport(errors=errors)


def _is_the_encoder(base: Any) -> bool:
    """Whether the base of a masked language model is what `AutoModel` makes of the same files."""
    from transformers import AutoModel

    kind: Any = AutoModel._model_mapping.get(type(base.config), None)
    return kind is type(base)
