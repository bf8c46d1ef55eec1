"""Which path a model takes from token sequences to hidden states and logits."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from secbatch.models import encoder_bert, encoder_modernbert
from secbatch.models.device import Compute
from secbatch.models.encoder_generic import PaddedEncoder, padded_tensors
from secbatch.models.load import LoadedModel
from secbatch.models.masked_lm_head import MaskedLMHead
from secbatch.models.sequences import TokenSequences

_TOLERANCE = {
    "float32": 1e-3,
    "bfloat16": 0.25,
}  # of hidden states of unit size: a wrong path is off by far more


class HiddenStates(Protocol):
    """Sequences, longest first, to their hidden states laid end to end: [T, hidden]."""

    packed: bool  # whether a batch costs its tokens or its padded rectangle

    def __call__(self, sequences: TokenSequences) -> torch.Tensor: ...


def hidden_states(base: Any, pad_id: int, compute: Compute) -> HiddenStates:
    """The fastest path for a base model that gives what its own forward gives."""
    generic = PaddedEncoder(_encoder_side(base), pad_id, compute.device)
    fast = _fast_path(base, compute.device)
    if fast is not None and _agree(fast, generic, base, compute):
        return fast
    return generic


def _encoder_side(base: Any) -> Any:
    """The encoder of a sequence-to-sequence model; any other model is its own."""
    return base.get_encoder() if base.config.is_encoder_decoder else base


def _fast_path(base: Any, device: str) -> HiddenStates | None:
    config = base.config
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return None
    for path, kinds in (
        (encoder_bert.PackedBert, encoder_bert.MODEL_TYPES),
        (encoder_modernbert.PackedModernBert, encoder_modernbert.MODEL_TYPES),
    ):
        if config.model_type in kinds:
            try:
                return path(base, device)
            except (AttributeError, RuntimeError, TypeError):  # modules laid out in another way
                return None
    return None


@torch.inference_mode()
def _agree(fast: HiddenStates, generic: HiddenStates, base: Any, compute: Compute) -> bool:
    """Whether both paths give the same on sequences of several lengths (a guard against a changed"
    " architecture)."""
    sample = _sample(base.get_input_embeddings().num_embeddings, base.config.pad_token_id)
    wanted, got = generic(sample).float(), fast(sample).float()
    return bool((wanted - got).abs().max() <= _TOLERANCE[compute.dtype] * wanted.abs().max().clamp(min=1.0))


def _sample(vocabulary: int, pad_id: int | None) -> TokenSequences:
    lengths = (23, 11, 11, 5, 2)
    ids = np.arange(sum(lengths)) * 7919 % vocabulary
    ids[ids == pad_id] = (pad_id or 0) + 1 if (pad_id or 0) + 1 < vocabulary else 0
    return TokenSequences.of(np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1]))


class MaskedLM:
    """Logits over the vocabulary at chosen positions."""

    def __init__(self, loaded: LoadedModel, pad_id: int, compute: Compute) -> None:
        self._model = loaded.model
        self._pad_id = pad_id
        self._device = compute.device
        self._hidden: HiddenStates | None = None
        self._head: MaskedLMHead | None = None
        if self._head_stands_alone(compute):
            self._hidden = hidden_states(loaded.model.base_model, pad_id, compute)
        self.vocabulary = int(loaded.model.get_input_embeddings().num_embeddings)

    @property
    def packed(self) -> bool:
        return self._hidden is not None and self._hidden.packed

    def logits(
        self, sequences: TokenSequences, positions: np.ndarray
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields (which of `positions`, [m, vocabulary] float32), a bounded number at a time.

        `sequences`: longest first. `positions`: [M] places in the flat ids.
        """
        step = 8192 if self._device.startswith("cuda") else 256  # 256 × 50,265 logits are 51 MB
        where = torch.from_numpy(positions).to(self._device)
        states = self._full(sequences)[where] if self._hidden is None else self._hidden(sequences)[where]
        for start in range(0, len(positions), step):
            part = states[start : start + step]
            logits = self._head(part) if self._head is not None else part
            yield slice(start, start + len(part)), logits.float()

    def _full(self, sequences: TokenSequences) -> torch.Tensor:
        ids, real = padded_tensors(sequences, self._pad_id, self._device)
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=real).logits
        return logits[real.bool()]

    @torch.inference_mode()
    def _head_stands_alone(self, compute: Compute) -> bool:
        """Whether the head gives the model's own logits when it sees chosen positions only."""
        if self._model.config.is_encoder_decoder:
            return False
        sample = _sample(self._model.get_input_embeddings().num_embeddings, self._model.config.pad_token_id)
        try:
            head = MaskedLMHead(self._model)
            places = torch.arange(1, len(sample.ids), 3, device=self._device)
            apart = head(
                PaddedEncoder(self._model.base_model, self._pad_id, self._device)(sample)[places]
            ).float()
            whole = self._full(sample)[places].float()
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False
        if apart.shape != whole.shape:
            return False
        close = (apart - whole).abs().max() <= _TOLERANCE[compute.dtype] * whole.abs().max().clamp(min=1.0)
        if close:
            self._head = head
        return bool(close)
