"""One encoder for all tasks that name the same model: loaded once, and one forward for the texts that they share."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secbatch.freed_memory import give_back_freed_memory, keep_freed_memory
from secbatch.models.batch_runner import BatchReport, BatchRunner, default_token_budget
from secbatch.models.bert_modules import BaseModel
from secbatch.models.configuration import filling, load_config, text_config
from secbatch.models.device import Compute
from secbatch.models.encoder import HiddenStates, MaskedLM, ModelHead, hidden_states
from secbatch.models.first_forward import FirstForwardError, first_forward
from secbatch.models.heads import SequenceHead, TokenHead, trial_pairs
from secbatch.models.load import LoadedModel, check_vocabulary, load_model
from secbatch.models.packed_encoder import PackedEncoder, let_go_of_layers
from secbatch.models.pairs import PairFrame
from secbatch.models.requests import HeadKind, Request, own_report, share_of, united
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.steady_products import steady_products
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.models.transfer import Made, on_device
from secbatch.work_done import part_in_hand

Forward = HiddenStates | ModelHead


class SharedEncoder:
    """A model with its tokenizer; tasks say what they need of it before it is loaded."""

    def __init__(
        self,
        model: ResolvedModel,
        compute: Compute,
        scratch: Path | None = None,
        base: "SharedEncoder | None" = None,
    ) -> None:
        """`scratch`: a folder for what tasks remember of a run; None: they remember nothing.

        `base`: one of a model with the same base, weight by weight: its hidden states serve this model's heads.
        Raises ModelError when the model's files are missing or broken. Loads no weights.
        """
        self.model, self.compute, self.scratch = model, compute, scratch
        self._used = compute  # float32 instead of bfloat16 where transformers' code of the model does not run in it
        self.tokenizer = load_tokenizer(model)
        self.notices = compute.notices
        self._runner = BatchRunner(compute)
        self._needed_heads: dict[HeadKind, None] = {}  # in the order of asking
        self._needs_states = False
        self._heads: dict[HeadKind, ModelHead] = {}
        self._hidden: HiddenStates | None = None
        self._loaded = False
        self.root: SharedEncoder = self if base is None else base.root
        if base is not None:
            self.root.need_states()

    def need_head(self, kind: HeadKind) -> None:
        self._needed_heads[kind] = None

    def need_states(self) -> None:
        self._needs_states = True

    @property
    def batch_free(self) -> bool:
        """Whether a text has the same results, bit for bit, whatever else is in its batch.

        Then a result may stand for later rows with the same text. In bfloat16 nobody counts on the last bits.
        """
        if self._used.dtype != "float32":
            return True
        states = self._hidden is None or (self._hidden.packed and self._hidden.batch_free)
        return states and all(head.batch_free for head in self._heads.values())

    @property
    def precision(self) -> str | None:
        """The number format that it is computed in; None until its weights are there."""
        return self._used.dtype if self._loaded else None

    @property
    def token_budget(self) -> int:
        """The most tokens in a batch; halved, for good, when the device's memory runs out."""
        return self._runner.token_budget

    @token_budget.setter
    def token_budget(self, tokens: int) -> None:
        self._runner.token_budget = tokens

    @property
    def lm(self) -> MaskedLM:
        head = self._heads["masked-lm"]  # need_head() and load() come first
        assert isinstance(head, MaskedLM)
        return head

    @property
    def sequence_head(self) -> SequenceHead:
        head = self._heads["sequence-classification"]
        assert isinstance(head, SequenceHead)
        return head

    def token_head(self, kind: HeadKind) -> TokenHead:
        """`kind`: token-classification or question-answering."""
        head = self._heads[kind]
        assert isinstance(head, TokenHead)
        return head

    def load(self) -> None:
        """Brings the weights to the device, once. Raises ModelError when they do not serve."""
        if self._loaded:
            return
        if self.compute.device == "cpu":
            keep_freed_memory()
        if self.root is not self:
            self.root.load()
            self._used = self.root._used
        try:
            self._bring()
        except FirstForwardError:
            if self._used.dtype == "float32":
                raise
            self._used, self._heads, self._hidden = replace(self._used, dtype="float32"), {}, None
            self.root = self  # where another has the states in bfloat16: heads in float32 take those in float32 alone
            self._bring()
        if self._used.dtype != self.compute.dtype:
            said = f"model {self.model.name} does not run in {self.compute.dtype}: it is computed in float32"
            self.notices = (*self.notices, said)
        paths = [head.hidden for head in self._heads.values()] + ([self._hidden] if self._needs_states else [])
        packed = [path for path in paths if isinstance(path, PackedEncoder)]
        slower = self.compute.remarks_on_attention(path.head_width for path in packed)
        self.notices = tuple(dict.fromkeys((*self.notices, *slower)))
        in_blocks = len(packed) == len(paths)
        config = load_config(self.model)
        width = getattr(text_config(config), "hidden_size", None)
        budget = default_token_budget(self._used, in_blocks, width if isinstance(width, int) else 0)
        self.token_budget = min(self.token_budget, budget)
        self._runner.multiple = filling(config)
        if self.compute.device == "cpu":  # weights as they were read
            give_back_freed_memory()
        self._loaded = True

    def _bring(self) -> None:
        """Heads and hidden states in the format of `_used`."""
        for kind in self._needed_heads:
            loaded = load_model(self.model, kind, self._used)
            check_vocabulary(self.model, self.tokenizer, loaded.model)
            with first_forward(self.model), steady_products(self._used.device):
                head = self._heads[kind] = _head(kind, loaded, self.tokenizer, self._used)
            self.notices = tuple(dict.fromkeys((*self.notices, *loaded.notices)))
            if self.root is not self and head.hidden is not None:
                head.hidden = self.root._states()
                head.packed = head.hidden.packed
            if isinstance(head.hidden, PackedEncoder):
                let_go_of_layers(loaded.model.base_model)
            if self._needs_states and head.hidden is not None and _is_the_encoder(loaded.model.base_model):
                self._hidden = self._hidden or head.hidden
        if self._needs_states and self.root is not self:
            self._hidden = self.root._states()
        if self._needs_states and self._hidden is None:
            loaded = load_model(self.model, "encoder", self._used)
            check_vocabulary(self.model, self.tokenizer, loaded.model)
            with first_forward(self.model), steady_products(self._used.device):
                self._hidden = hidden_states(loaded.model, self.tokenizer.pad_id, self._used)
            self.notices = tuple(dict.fromkeys((*self.notices, *loaded.notices)))

    def abandon(self) -> None:
        """Ends what is run, and what would be, with Interrupted. From any thread."""
        self._runner.abandon()
        if self.root is not self:
            self.root.abandon()

    @torch.inference_mode()
    def width(self) -> int:
        """Values of one hidden state."""
        with first_forward(self.model):  # a forward over a few tokens, like those before it
            return int(self._states()(self.tokenizer.encode(["a"])).shape[-1])

    def _states(self) -> HiddenStates:
        assert self._hidden is not None, "need_states() and load() come first"
        return self._hidden

    def run(self, requests: Sequence[Request], owners: "Sequence[SharedEncoder] | None" = None) -> list[BatchReport]:
        """Does all requests; sequences that several of them have go through the model once.

        `owners` and what it returns: as of `launch`.
        """
        reports = self.launch(requests, owners)
        for report in reports:
            report.land()
        return reports

    def launch(self, requests: Sequence[Request], owners: "Sequence[SharedEncoder] | None" = None) -> list[BatchReport]:
        """As `run`, but does not wait for the last results: each report is to be landed before they are looked at.

        `owners`: the encoder whose heads each request is for, all with this one as their root; None: this one.
        A report for each: its own rows' errors; the tokens of a common forward are in the first one's.
        """
        owners = owners or [self] * len(requests)
        forwards = [owner._forward(request.head) for owner, request in zip(owners, requests, strict=True)]
        passes: dict[int, list[int]] = {}
        for place, forward in enumerate(forwards):
            passes.setdefault(id(forward), []).append(place)
        reports: list[BatchReport | None] = [None] * len(requests)
        for places in passes.values():
            with part_in_hand(1 / len(passes)):
                done = self._pass([requests[place] for place in places], forwards[places[0]])
            for place, report in zip(places, done, strict=True):
                reports[place] = report
        return [report for report in reports if report is not None]

    def _forward(self, kind: HeadKind | None) -> Forward:
        """What the sequences go through: the same object for all heads that look at the same hidden states."""
        model = self._heads[kind].hidden or self._heads[kind] if kind else self._hidden
        assert model is not None, "load() comes first"
        return model

    def _pass(self, requests: list[Request], model: Forward) -> list[BatchReport]:
        forward = model.states if isinstance(model, ModelHead) else model
        sequences, rows_of = united([request.sequences for request in requests])

        def work(rows: np.ndarray, batch: TokenSequences) -> Iterator[Made]:
            shares = [
                (request, share)
                for request, own in zip(requests, rows_of, strict=True)
                if (share := share_of(request, own[rows], batch)) is not None
            ]
            wanted = [share.at for _, share in shares if share.at is not None]
            at = np.unique(np.concatenate(wanted)) if len(wanted) == len(shares) else None
            states = forward(batch, at)
            for request, share in shares:
                mine = states
                if share.at is not None and len(share.at) != len(states):
                    index = share.at if at is None else np.searchsorted(at, share.at)
                    mine = states[on_device(index, states.device)]
                yield from request.consume(share.rows, share.sequences, mine)

        report = self._runner.run(sequences, not model.packed, work)
        return [own_report(report, own, number) for number, own in enumerate(rows_of)]


def _head(kind: HeadKind, loaded: LoadedModel, tokenizer: TextTokenizer, compute: Compute) -> ModelHead:
    if kind == "masked-lm":
        return MaskedLM(loaded, tokenizer.pad_id, compute)
    if kind == "question-answering":
        frame = PairFrame.of(tokenizer, loaded.config, kind)
        try:
            return TokenHead(loaded, tokenizer, compute, trial_pairs(loaded.model, frame))
        except AssertionError:  # Longformer takes nothing but pairs
            return TokenHead(loaded, tokenizer, compute, trial_pairs(loaded.model, frame, alone=False))
    return (SequenceHead if kind == "sequence-classification" else TokenHead)(loaded, tokenizer, compute)


def _is_the_encoder(base: Any) -> bool:
    """Whether the base of a model with a head is what `AutoModel` makes of the same files."""
    if isinstance(base, BaseModel):
        return True
    from transformers import AutoModel

    kind: Any = AutoModel._model_mapping.get(type(base.config), None)
    return kind is type(base)
