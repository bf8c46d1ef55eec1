"""Which path a model takes from token sequences to hidden states and logits.

A path other than the model's own forward is taken only when it gives the same on a sample, so a change of an
architecture in transformers costs speed and never results.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

from secbatch.models import encoder_bert, encoder_deberta, encoder_modernbert, encoder_mpnet
from secbatch.models.configuration import changes_beyond, padding_id, padding_moves_tokens
from secbatch.models.device import Compute
from secbatch.models.encoder_generic import StockEncoder, over_real_tokens
from secbatch.models.laid_out import lay_out
from secbatch.models.load import LoadedModel
from secbatch.models.masked_lm_head import MaskedLMHead
from secbatch.models.masked_lm_head_packed import PackedMaskedLMHead
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import on_device

# Of the largest value: rounding stays well below, a wrong path is far above.
_TOLERANCE = {"float32": 2e-4, "bfloat16": 0.1}
# Of all values' norm, in bfloat16, where padding is all that differs: products in batches of another size round by
# 0.004 of it and less; what Nyströmformer and ConvBERT let in of their padding is 0.015 and more.
_DISTURBANCE = 0.01

Head = Callable[[torch.Tensor], torch.Tensor]  # [M, hidden] to [M, vocabulary]


class HiddenStates(Protocol):
    """Sequences, longest first, to their hidden states laid end to end: [T, hidden], or only those `at` [m]."""

    packed: bool  # whether a batch costs its tokens or its padded rectangle
    batch_free: bool  # whether a sequence's states are the same bits in any batch

    def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor: ...


@torch.inference_mode()
def hidden_states(
    base: Any,
    pad_id: int,
    compute: Compute,
    sample: TokenSequences | None = None,
    wanted: torch.Tensor | None = None,
) -> HiddenStates:
    """The fastest path for a base model that gives what its own forward gives for each sequence alone.

    `sample`: what it is tried on, longest first; without it, sequences of any tokens. `wanted`: what the model's own
    forward gives for it, [T, hidden], where that is known.
    Of a sequence-to-sequence model, it is the encoder's hidden states. On a CPU a model without a path of its own has
    its linear layers changed for ones in the layout for inference.
    """
    encoder = base.get_encoder() if base.config.is_encoder_decoder else base
    sample = trial_sequences(base) if sample is None else sample
    alone = StockEncoder(encoder, pad_id, compute.device, pad=False)
    wanted = alone(sample) if wanted is None else wanted
    fast = _fast_path(base, compute.device)
    if fast is not None and agrees(fast(sample), wanted, compute):
        places = np.arange(0, len(sample.ids), 4)
        if agrees(fast(sample, places), wanted[torch.from_numpy(places)], compute):
            return fast
    slow = alone
    if not padding_moves_tokens(base.config):
        padded = StockEncoder(encoder, pad_id, compute.device, pad=True)
        slow = padded if undisturbed(padded(sample), wanted, compute) else alone
    if compute.device == "cpu":
        lay_out(encoder, lambda: agrees(slow(sample), wanted, compute))
    return slow


def _fast_path(base: Any, device: str) -> HiddenStates | None:
    config = base.config
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return None
    if changes_beyond(config) is not None:
        return None
    for path, kinds in (
        (encoder_bert.PackedBert, encoder_bert.MODEL_TYPES),
        (encoder_modernbert.PackedModernBert, encoder_modernbert.MODEL_TYPES),
        (encoder_mpnet.PackedMPNet, encoder_mpnet.MODEL_TYPES),
        (encoder_deberta.PackedDeberta, encoder_deberta.MODEL_TYPES),
    ):
        if config.model_type in kinds:
            try:
                return path(base, device)
            except (AttributeError, RuntimeError, TypeError) as error:  # modules laid out in another way
                if is_out_of_memory(error):
                    raise
                return None
    return None


def trial_sequences(model: Any) -> TokenSequences:
    """Short sequences, two of one length; one reaches beyond the window of ModernBERT's local layers."""
    longest = min(model.config.sliding_window + 8, 200) if model.config.model_type == "modernbert" else 11
    lengths = (longest, 5, 5, 2)
    vocabulary, pad_id = vocabulary_size(model), padding_id(model.config)
    ids = np.arange(1, sum(lengths) + 1) * 7919 % vocabulary
    ids[ids == pad_id] = (ids.min() if ids.min() != pad_id else ids.max()) if pad_id is not None else 0
    return TokenSequences.of(np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1]))


def vocabulary_size(model: Any) -> int:
    """How many token ids a model has embeddings for."""
    return int(model.get_input_embeddings().weight.shape[0])


def agrees(got: torch.Tensor, wanted: torch.Tensor, compute: Compute) -> bool:
    """Whether two paths to the same values differ by no more than rounding."""
    if got.shape != wanted.shape:
        return False
    wanted = wanted.float()
    limit = _TOLERANCE[compute.dtype] * wanted.abs().max().clamp(min=1.0)
    return bool((got.float() - wanted).abs().max() <= limit)


def undisturbed(padded: torch.Tensor, alone: torch.Tensor, compute: Compute) -> bool:
    """Whether what a model gives in padded batches is what it gives without padding, in bfloat16 as well."""
    if not agrees(padded, alone, compute):
        return False
    apart = (padded.float() - alone.float()).norm()
    return compute.dtype == "float32" or bool(apart <= _DISTURBANCE * alone.float().norm())


class ModelHead(ABC):
    """A model with its head, which is called by itself on its base's states where that gives what the model gives."""

    packed: bool  # whether a batch costs its tokens or its padded rectangle

    def __init__(self, loaded: LoadedModel, pad_id: int, compute: Compute) -> None:
        self._model, self._pad_id, self._device = loaded.model, pad_id, compute.device
        self.hidden: HiddenStates | None = None  # of the base model, where the head can be called alone
        self._fused = False  # whether the head's rows are the same bits in any batch

    @property
    def batch_free(self) -> bool:
        """Whether a sequence's logits are the same bits in any batch."""
        return self.hidden is not None and self.hidden.batch_free and self._fused

    def states(self, sequences: TokenSequences, positions: np.ndarray | None) -> torch.Tensor:
        """What `logits_of` takes, at `positions` [m] of `sequences`, longest first, or at all.

        Hidden states; or logits already, where the head cannot be called alone.
        """
        if self.hidden is not None:
            return self.hidden(sequences, positions)
        whole = self._full(sequences, pad=not self.packed)
        return whole if positions is None else whole[on_device(positions, self._device)]

    def _full(self, sequences: TokenSequences, pad: bool) -> torch.Tensor:
        """[T, width] from the model's own forward."""
        beyond = changes_beyond(self._model.config)
        return over_real_tokens(self._forward, sequences, self._pad_id, self._device, pad, beyond)

    def _own_states(self, sample: TokenSequences) -> Callable[[], torch.Tensor]:
        """[T, hidden] from the base model's own forward, once."""
        return cache(lambda: StockEncoder(self._model.base_model, self._pad_id, self._device, pad=False)(sample))

    @abstractmethod
    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **types: torch.Tensor) -> torch.Tensor:
        """[B, L, width] from the model's own forward of `ids` [B, L]."""


class MaskedLM(ModelHead):
    """Logits over the vocabulary at chosen positions."""

    @torch.inference_mode()
    def __init__(self, loaded: LoadedModel, pad_id: int, compute: Compute) -> None:
        super().__init__(loaded, pad_id, compute)
        self.vocabulary = vocabulary_size(loaded.model)
        sample = trial_sequences(loaded.model)
        whole = self._full(sample, pad=False)
        states = self._own_states(sample)
        self._head = self._head_alone(states, whole, compute)
        if self._head is not None:
            self._fused = isinstance(self._head, PackedMaskedLMHead)
            self.hidden = hidden_states(loaded.model.base_model, pad_id, compute, sample, states())
            self.packed = self.hidden.packed
        else:
            self.packed = not undisturbed(self._full(sample, pad=True), whole, compute)

    def logits(self, sequences: TokenSequences, positions: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields (which of `positions`, [m, vocabulary] float32), a bounded number at a time.

        `sequences`: longest first. `positions`: [M] places in the flat ids.
        """
        return self.logits_of(self.states(sequences, positions))

    def logits_of(self, states: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields (which of `states` [M, width], [m, vocabulary] float32), a bounded number at a time.

        The logits are the caller's to overwrite.
        """
        step = 8192 if self._device.startswith("cuda") else 256  # 256 × 50,265 logits are 51 MB
        for start in range(0, len(states), step):
            part = states[start : start + step]
            logits = self._head(part) if self._head is not None else part.clone()
            yield slice(start, start + len(part)), logits.float()

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **types: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, **types).logits
        return logits

    def _head_alone(self, states: Callable[[], torch.Tensor], whole: torch.Tensor, compute: Compute) -> Head | None:
        """The head by itself, if it gives the model's own logits when it sees chosen positions only."""
        if self._model.config.is_encoder_decoder:
            return None
        places = torch.arange(1, len(whole), 3, device=self._device)
        for kind in (PackedMaskedLMHead, MaskedLMHead):
            try:
                head: Head = kind(self._model)
                apart = head(states()[places])
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                if is_out_of_memory(error):
                    raise
                continue
            if agrees(apart, whole[places], compute):
                return head
        return None
