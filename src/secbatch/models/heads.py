"""The heads of fine-tuned models: of a whole sequence (classify), and of each token (ner, qa).

A head is called by itself, on the positions that it looks at, where that gives what the model's own forward gives on
a sample; otherwise everything goes through the model's own forward.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from secbatch.models.configuration import padding_id, text_config
from secbatch.models.device import Compute
from secbatch.models.encoder import ModelHead, hidden_states, trial_sequences, undisturbed
from secbatch.models.head_on_states import FusedHead, HeadOnStates
from secbatch.models.load import LoadedModel
from secbatch.models.pairs import PairFrame
from secbatch.models.sequence_means import sequence_means
from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import TextTokenizer

# Of the largest logit, between a head by itself and within its model, on the same hidden states.
_HEAD_TOLERANCE = {"float32": 2e-5, "bfloat16": 0.03}
# Longformer asserts that its head for questions sees whole pairs.
_NOT_ALONE = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)

Pooling = Literal["first", "last", "mean"]


class TokenHead(ModelHead):
    """Logits for chosen tokens: [m, labels]; of a question-answering model, the start's and the end's: [m, 2]."""

    @torch.inference_mode()
    def __init__(
        self, loaded: LoadedModel, tokenizer: TextTokenizer, compute: Compute, sample: TokenSequences | None = None
    ) -> None:
        """`sample`: what its ways are tried on, longest first; without it, texts by themselves."""
        super().__init__(loaded, tokenizer.pad_id, compute)
        sample = _trial_texts(loaded.model, tokenizer) if sample is None else sample
        whole = self._full(sample, pad=False)
        self.labels = int(whole.shape[-1])
        self._head: HeadOnStates | None = None
        places = torch.arange(1, len(sample.ids), 3, device=self._device)
        states = self._own_states(sample)

        def alone() -> bool:
            head = HeadOnStates(self._model)
            return _error(_token_logits(head(states()[places][None]))[0], whole[places], compute) <= 1

        if not self._model.config.is_encoder_decoder and _holds(alone):
            self._fused = _fuse(self._model, alone)
            self._head = HeadOnStates(self._model)
            self.hidden = hidden_states(self._model.base_model, self._pad_id, compute, sample, states())
            self.packed = self.hidden.packed
        else:
            self.packed = not _holds(lambda: undisturbed(self._full(sample, pad=True), whole, compute))

    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """[m, width] to [m, labels] float32"""
        if self._head is None:
            return states.float()
        return _token_logits(self._head(states[None]))[0].float()

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **types: torch.Tensor) -> torch.Tensor:
        return _token_logits(self._model(input_ids=ids, attention_mask=mask, **types))


class SequenceHead(ModelHead):
    """Logits for sequences: [n, labels]."""

    @torch.inference_mode()
    def __init__(self, loaded: LoadedModel, tokenizer: TextTokenizer, compute: Compute) -> None:
        super().__init__(loaded, tokenizer.pad_id, compute)
        padding = padding_id(self._model.config)
        if padding is None:
            # Decoders find a sequence's last token by it: no token is padding, not even the one that ends a text.
            text_config(self._model.config).pad_token_id = -1
        sample = _trial_texts(loaded.model, tokenizer)
        everywhere = self._full(sample, pad=False)
        whole = _pooled(everywhere, sample, "first")
        self.labels = int(whole.shape[-1])
        self._head: HeadOnStates | None = None
        states = self._own_states(sample)
        self._pooling = pooling = self._find_pooling(states, sample, whole, compute)
        if pooling is not None:

            def alone() -> bool:
                pooled = _pooled(states(), sample, pooling)
                return _error(self._of_pooled(pooled), whole, compute) <= 1

            self._fused = _fuse(self._model, alone)
            self.hidden = hidden_states(self._model.base_model, self._pad_id, compute, sample, states())
            self.packed = self.hidden.packed
        else:
            # Where its padding is another token than the tokenizer's, a decoder's last token would be among that.
            padded = padding == self._pad_id
            padded = padded and _holds(lambda: undisturbed(self._full(sample, pad=True), everywhere, compute))
            self.packed = not padded

    def wanted(self, sequences: TokenSequences) -> np.ndarray | None:
        """The flat positions whose states the head looks at; None: all of them."""
        if self._pooling == "mean":
            return None
        return sequences.offsets[1:] - 1 if self._pooling == "last" else sequences.offsets[:-1]

    def logits_of(self, states: torch.Tensor, sequences: TokenSequences) -> torch.Tensor:
        """The states at the wanted positions of `sequences` [n] to [n, labels] float32."""
        if self._head is None:
            return states.float()
        return self._of_pooled(_pooled(states, sequences, "mean") if self._pooling == "mean" else states).float()

    def _of_pooled(self, states: torch.Tensor) -> torch.Tensor:
        assert self._head is not None
        logits: torch.Tensor = self._head(states[:, None]).logits  # as sequences of one token
        return logits

    def _find_pooling(
        self, states: Callable[[], torch.Tensor], sample: TokenSequences, whole: torch.Tensor, compute: Compute
    ) -> Pooling | None:
        """What of a sequence the head looks at: the kind that comes closest to the model's own logits, if close."""
        if self._model.config.is_encoder_decoder:
            return None
        kinds: tuple[Pooling, ...] = ("first", "mean", "last")
        errors: dict[Pooling, float] = {}
        try:
            self._head = HeadOnStates(self._model)
            errors = {kind: _error(self._of_pooled(_pooled(states(), sample, kind)), whole, compute) for kind in kinds}
        except _NOT_ALONE:
            pass
        best = min(errors, key=lambda kind: errors[kind], default=None)
        if best is not None and errors[best] <= 1:
            return best
        self._head = None
        return None

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **types: torch.Tensor) -> torch.Tensor:
        """A sequence's logits, at each of its tokens."""
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, **types).logits
        return logits[:, None].expand(-1, ids.shape[1], -1)


def _trial_texts(model: Any, tokenizer: TextTokenizer) -> TokenSequences:
    """Sequences of several lengths between the special tokens that every text gets: some heads look for these."""
    sample = trial_sequences(model)
    return TokenSequences.of(
        [np.concatenate([tokenizer.before, sample[row], tokenizer.after]) for row in range(len(sample))]
    )


def trial_pairs(model: Any, frame: PairFrame, alone: bool = True) -> TokenSequences:
    """Pairs of texts, longest first, in the frame and with the token types that the model wants; and a text `alone`."""
    sample = trial_sequences(model)
    halves = [
        (sample[row][: len(sample[row]) // 2], sample[row][len(sample[row]) // 2 :]) for row in range(len(sample))
    ]
    pairs = TokenSequences.of([frame.ids(*half) for half in halves])
    if frame.types is not None:
        types = np.concatenate([frame.types_of(len(first), len(second)) for first, second in halves])
        pairs = TokenSequences(pairs.ids, pairs.offsets, types)
    return TokenSequences.joined([pairs, TokenSequences.of([sample[len(sample) - 1]])]) if alone else pairs


def _pooled(states: torch.Tensor, sequences: TokenSequences, pooling: Pooling) -> torch.Tensor:
    if pooling == "mean":
        return sequence_means(states, sequences).to(states.dtype)
    at = sequences.offsets[:-1] if pooling == "first" else sequences.offsets[1:] - 1
    return states[torch.from_numpy(at).to(states.device)]


def _token_logits(output: Any) -> torch.Tensor:
    """[B, L, labels]"""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    logits: torch.Tensor = output.logits
    return logits


def _error(got: torch.Tensor, wanted: torch.Tensor, compute: Compute) -> float:
    """The largest difference, as a share of what rounding explains."""
    if got.shape != wanted.shape:
        return float("inf")
    limit = _HEAD_TOLERANCE[compute.dtype] * wanted.float().abs().max().clamp(min=1e-3)
    return float((got.float() - wanted.float()).abs().max() / limit)


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except _NOT_ALONE:
        return False


def _fuse(model: Any, check: Callable[[], bool]) -> bool:
    """Fuses the head's layers where it still does the same; returns whether its rows are batch-free."""
    fused = FusedHead(model)
    if _holds(check):
        return fused.batch_free
    fused.undo()
    return False
