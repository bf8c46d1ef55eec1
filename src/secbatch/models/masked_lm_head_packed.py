"""The vocabulary heads of BERT, its kin and ModernBERT as fused layers: dense, activation, norm, vocabulary."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from secbatch.models.linear import Linear
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.packed import ROWS, Norm, exact_gelu

# A vocabulary on a GPU is filled up to a multiple of so many words: cuBLAS has quick kernels only for rows that begin
# at multiples of 16 bytes. RoBERTa's 50,265 words took 9% of the time, for 2% of the arithmetic (H200).
WORDS = 64


class PackedMaskedLMHead:
    """Logits for chosen positions."""

    def __init__(self, model: Any) -> None:
        """Raises AttributeError or TypeError for a model whose head is built in another way."""
        dense, activation, norm, vocabulary = head_parts(model)
        self._dense, self._vocabulary = Linear.of(dense), _vocabulary(vocabulary)
        self._words = vocabulary.out_features
        self._activation = activation
        self._gelu = exact_gelu(activation)
        self._norm = Norm.of(norm)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, hidden] to [M, vocabulary]"""
        asked = len(hidden)
        hidden = F.pad(hidden, (0, 0, 0, -asked % ROWS))  # see packed.py
        wide = self._dense.gelu(hidden) if self._gelu else self._activation(self._dense(hidden))
        return self._vocabulary(self._norm(wide))[:asked, : self._words]


def _vocabulary(layer: torch.nn.Linear) -> Linear:
    """[M, hidden] to [M, words], on a GPU filled up to a multiple of WORDS."""
    missing = -layer.out_features % WORDS
    if layer.weight.device.type != "cuda" or not missing:
        return Linear.of(layer)
    try:
        weight = F.pad(layer.weight.detach(), (0, 0, 0, missing))
        bias = None if layer.bias is None else F.pad(layer.bias.detach(), (0, missing))
    except RuntimeError as problem:  # the embeddings are the same weights: a second copy takes what there may not be
        if not is_out_of_memory(problem):
            raise
        return Linear.of(layer)
    return Linear(weight, bias)


def head_parts(model: Any) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor], Any, Any]:
    """Dense layer, activation, norm, vocabulary. Raises AttributeError for a head that is built in another way."""
    if model.config.model_type == "modernbert":
        return model.head.dense, model.head.act, model.head.norm, model.decoder
    if model.config.model_type == "bert":
        transform = model.cls.predictions.transform
        return transform.dense, transform.transform_act_fn, transform.LayerNorm, model.cls.predictions.decoder
    if model.config.model_type == "electra":
        predictions = model.generator_predictions
        return predictions.dense, predictions.activation, predictions.LayerNorm, model.generator_lm_head
    if model.config.model_type == "distilbert":
        return model.vocab_transform, model.activation, model.vocab_layer_norm, model.vocab_projector
    head = model.lm_head  # RoBERTa and its kin have no choice of activation
    return head.dense, torch.nn.GELU(), head.layer_norm, head.decoder
