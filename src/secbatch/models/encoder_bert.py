"""BERT and RoBERTa over packed sequences.

Devlin et al. 2018 (arXiv:1810.04805), Liu et al. 2019 (arXiv:1907.11692): norms after each residual sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from secbatch.models.linear import Linear
from secbatch.models.packed import Block, Norm, exact_gelu
from secbatch.models.packed_attention import attend
from secbatch.models.packed_encoder import PackedEncoder

MODEL_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})


@dataclass(frozen=True)
class _Layer:
    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


class PackedBert(PackedEncoder[_Layer]):
    """A BERT or RoBERTa base model."""

    def __init__(self, base: Any, device: str) -> None:
        config = base.config
        embeddings = base.embeddings
        self._heads = config.num_attention_heads
        self._words = embeddings.word_embeddings.weight  # [vocabulary, hidden]
        # RoBERTa counts positions from its padding index on, at which the padding token stands wherever it is in a
        # text: with another model's tokenizer that may be any token.
        placeless = getattr(embeddings, "padding_idx", None)
        # A token is of type 0 but in pairs of texts, so that type's embedding is part of the position's.
        types = embeddings.token_type_embeddings.weight
        self._positions = embeddings.position_embeddings.weight[placeless or 0 :] + types[0]
        self._types = types - types[0]  # [types, hidden]: what another type changes
        self._norm = Norm.of(embeddings.LayerNorm)
        self._activation: Callable[[torch.Tensor], torch.Tensor] = base.encoder.layer[
            0
        ].intermediate.intermediate_act_fn
        self._gelu = exact_gelu(self._activation)
        super().__init__(device, self._words.dtype, [_layer_of(layer) for layer in base.encoder.layer], placeless)

    def _begin(self, block: Block) -> tuple[torch.Tensor, None]:
        x = self._words[block.ids] + self._positions[block.positions]
        if block.types is not None:
            x = x + self._types[block.types]
        return self._norm(x), None

    def _attend(self, layer: _Layer, x: torch.Tensor, block: Block, context: None) -> torch.Tensor:
        return attend(layer.qkv(x).view(len(x), 3, self._heads, -1), block)

    def _after_attention(self, layer: _Layer, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = layer.attention_norm(layer.out.plus(attended, x))
        wide = layer.up.gelu(x) if self._gelu else self._activation(layer.up(x))  # [T, intermediate]
        return layer.output_norm(layer.down.plus(wide, x))


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
