"""MPNet over packed sequences on a CPU: BERT's layers, and scores that depend on how far apart two tokens are.

Song et al. 2020 (arXiv:2004.09297). The addends are those of T5 (Raffel et al. 2019, arXiv:1910.10683).
"""

from typing import Any

import torch

from secbatch.models import native
from secbatch.models.encoder_bert import PackedBert, PackedLayer
from secbatch.models.linear import Linear
from secbatch.models.packed import Block, Norm
from secbatch.models.packed_attention import attend

MODEL_TYPES = frozenset({"mpnet"})


class PackedMPNet(PackedBert):
    """An MPNet base model. Raises TypeError for texts that are too long for the table, and on a GPU."""

    def __init__(self, base: Any, device: str) -> None:
        if device != "cpu" or base.config.max_position_embeddings > native.LONGEST + 2:  # positions count from 2
            raise TypeError("There is no such attention.")
        super().__init__(base, device)
        apart = torch.arange(native.BIAS_WIDTH) - native.LONGEST  # a key's place less its query's
        buckets = base.encoder.relative_position_bucket(apart, num_buckets=32)  # as its encoder asks
        self._bias = base.encoder.relative_attention_bias(buckets).t().float().contiguous()  # [heads, BIAS_WIDTH]

    def _attend(self, layer: PackedLayer, x: torch.Tensor, block: Block, context: None) -> torch.Tensor:
        return attend(layer.qkv(x).view(len(x), 3, self._heads, -1), block, bias=self._bias)

    def _layer_of(self, layer: Any) -> PackedLayer:
        attention = layer.attention.attn
        return PackedLayer(
            qkv=Linear.of(attention.q, attention.k, attention.v),
            out=Linear.of(attention.o),
            attention_norm=Norm.of(layer.attention.LayerNorm),
            up=Linear.of(layer.intermediate.dense),
            down=Linear.of(layer.output.dense),
            output_norm=Norm.of(layer.output.LayerNorm),
        )
