"""BERT and its kin over packed sequences: norms after each residual sum.

BERT: Devlin et al. 2018 (arXiv:1810.04805). RoBERTa: Liu et al. 2019 (arXiv:1907.11692). ELECTRA: Clark et al. 2020
(arXiv:2003.10555), whose embeddings may be narrower than its layers. DistilBERT: Sanh et al. 2019 (arXiv:1910.01108).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from secbatch.models.linear import Linear
from secbatch.models.packed import Block, Norm, exact_gelu
from secbatch.models.packed_attention import attend
from secbatch.models.packed_encoder import PackedEncoder

MODEL_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"})


@dataclass(frozen=True)
class PackedLayer:
    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


class PostNormEncoder(PackedEncoder[PackedLayer]):
    """Layers whose sums are normed, whatever their attention is."""

    def __init__(
        self,
        device: str,
        dtype: torch.dtype,
        layers: list[PackedLayer],
        activation: Callable[[torch.Tensor], torch.Tensor],
        placeless: int | None = None,
    ) -> None:
        self._activation, self._gelu = activation, exact_gelu(activation)
        super().__init__(device, dtype, layers, placeless)

    def _after_attention(self, layer: PackedLayer, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = _normed_sum(layer.attention_norm, layer.out, attended, x)
        wide = layer.up.gelu(x) if self._gelu else self._activation(layer.up(x))  # [T, intermediate]
        return _normed_sum(layer.output_norm, layer.down, wide, x)


class PackedBert(PostNormEncoder):
    """A base model of one of MODEL_TYPES."""

    def __init__(self, base: Any, device: str) -> None:
        config = base.config
        embeddings = base.embeddings
        self._heads, self.head_width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self._words = embeddings.word_embeddings.weight  # [vocabulary, width of embeddings]
        # RoBERTa counts positions from its padding index on, at which the padding token stands wherever it is in a
        # text: with another model's tokenizer that may be any token.
        placeless = getattr(embeddings, "padding_idx", None)
        self._positions = embeddings.position_embeddings.weight[placeless or 0 :]
        self._types: torch.Tensor | None = None
        if hasattr(embeddings, "token_type_embeddings"):  # DistilBERT has none
            # A token is of type 0 but in pairs of texts, so that type's embedding is part of the position's.
            types = embeddings.token_type_embeddings.weight
            self._positions = self._positions + types[0]
            self._types = types - types[0]  # [types, width of embeddings]: what another type changes
        self._norm = Norm.of(embeddings.LayerNorm)
        self._widened = Linear.of(base.embeddings_project) if hasattr(base, "embeddings_project") else None
        distilled = config.model_type == "distilbert"
        layers = base.transformer.layer if distilled else base.encoder.layer
        activation = layers[0].ffn.activation if distilled else layers[0].intermediate.intermediate_act_fn
        made = [self._layer_of(layer) for layer in layers]
        super().__init__(device, self._words.dtype, made, activation, placeless)

    def _begin(self, block: Block) -> tuple[torch.Tensor, None]:
        x, positions = self._words[block.ids], self._positions[block.positions]
        if block.types is not None and self._types is not None:
            positions = positions + self._types[block.types]
        x = self._norm.of_sum(x, positions)
        return x if self._widened is None else self._widened(x), None

    def _attend(self, layer: PackedLayer, x: torch.Tensor, block: Block, context: None) -> torch.Tensor:
        return attend(layer.qkv(x).view(len(x), 3, self._heads, -1), block)

    def _layer_of(self, layer: Any) -> PackedLayer:
        return _of_distilbert(layer) if hasattr(layer, "ffn") else _of_bert(layer)


def _normed_sum(norm: Norm, layer: Linear, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The norm of layer(inner) + x, which are added up within the norm or, where it does not do that, the product."""
    if norm.adds:
        return norm.of_sum(layer(inner), x)
    return norm(layer.plus(inner, x))


def _of_bert(layer: Any) -> PackedLayer:
    attention = layer.attention
    return PackedLayer(
        qkv=Linear.of(attention.self.query, attention.self.key, attention.self.value),
        out=Linear.of(attention.output.dense),
        attention_norm=Norm.of(attention.output.LayerNorm),
        up=Linear.of(layer.intermediate.dense),
        down=Linear.of(layer.output.dense),
        output_norm=Norm.of(layer.output.LayerNorm),
    )


def _of_distilbert(layer: Any) -> PackedLayer:
    attention = layer.attention
    return PackedLayer(
        qkv=Linear.of(attention.q_lin, attention.k_lin, attention.v_lin),
        out=Linear.of(attention.out_lin),
        attention_norm=Norm.of(layer.sa_layer_norm),
        up=Linear.of(layer.ffn.lin1),
        down=Linear.of(layer.ffn.lin2),
        output_norm=Norm.of(layer.output_layer_norm),
    )
