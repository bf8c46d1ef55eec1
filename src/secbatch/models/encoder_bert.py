"""BERT and RoBERTa over packed sequences.

Devlin et al. 2018 (arXiv:1810.04805), Liu et al. 2019 (arXiv:1907.11692): norms after each residual sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secbatch.models.linear import Linear, has_blocked_layers
from secbatch.models.packed import Norm, attend, exact_gelu, filled, pack, take
from secbatch.models.sequences import TokenSequences

MODEL_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})


@dataclass(frozen=True)
class _Layer:
    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


class PackedBert:
    """`last_hidden_state` of a BERT or RoBERTa base model (transformers' module) without padding."""

    packed = True

    def __init__(self, base: Any, device: str) -> None:
        config = base.config
        embeddings = base.embeddings
        self._device = device
        self._heads = config.num_attention_heads
        self._words = embeddings.word_embeddings.weight  # [vocabulary, hidden]
        # RoBERTa counts positions from the padding index on.
        first = embeddings.padding_idx + 1 if hasattr(embeddings, "padding_idx") else 0
        # A token is of type 0 but in pairs of texts, so that type's embedding is part of the position's.
        types = embeddings.token_type_embeddings.weight
        self._positions = embeddings.position_embeddings.weight[first:] + types[0]
        self._types = types - types[0]  # [types, hidden]: what another type changes
        self._norm = Norm.of(embeddings.LayerNorm)
        self._activation: Callable[[torch.Tensor], torch.Tensor] = base.encoder.layer[
            0
        ].intermediate.intermediate_act_fn
        self._gelu = exact_gelu(self._activation)
        # oneDNN's products treat each row alone; other libraries choose an order of summation by the batch.
        self.batch_free = has_blocked_layers(self._words.dtype) and device == "cpu"
        self._layers = [_layer_of(layer) for layer in base.encoder.layer]

    def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor:
        """[T, hidden] for sequences sorted longest first; only the tokens `at` [m], where given: [m, hidden]."""
        batch = pack(sequences, self._device)
        x = self._words[batch.ids] + self._positions[batch.positions]  # [T, hidden]
        if sequences.types is not None:
            x = x + self._types[torch.from_numpy(filled(sequences.types.astype(np.int64))).to(self._device)]
        x = self._norm(x)
        for layer in self._layers:
            qkv = layer.qkv(x).view(len(x), 3, self._heads, -1)
            attended = attend(qkv, batch.groups)
            if at is not None and layer is self._layers[-1]:
                attended, x = take((attended, x), at)  # nobody looks at the others any more
            x = layer.attention_norm(layer.out.plus(attended, x))
            wide = layer.up.gelu(x) if self._gelu else self._activation(layer.up(x))  # [T, intermediate]
            x = layer.output_norm(layer.down.plus(wide, x))
        return x[: batch.tokens if at is None else len(at)]


def _layer_of(layer: Any) -> _Layer:
    attention = layer.attention
    return _Layer(
        qkv=Linear.of(attention.self.query, attention.self.key, attention.self.value),
        out=Linear.of(attention.output.dense),
        attention_norm=Norm.of(attention.output.LayerNorm),
        up=Linear.of(layer.intermediate.dense),
        down=Linear.of(layer.output.dense),
        output_norm=Norm.of(layer.output.LayerNorm),
    )
