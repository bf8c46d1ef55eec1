"""DeBERTa (version 2 and 3) over packed sequences on a CPU.

He et al. 2020 (arXiv:2006.03654) and 2021 (arXiv:2111.09543): scores also compare a query with the distance to a key,
and a key with the distance to a query. transformers compares each with all distances that there are; here it is those
within a sequence, and a look at the products with other strides takes the place of picking them out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from secbatch.models.encoder_bert import PackedLayer, PostNormEncoder
from secbatch.models.linear import Linear
from secbatch.models.packed import Block, Norm
from secbatch.models.packed_attention import flattened
from secbatch.models.packed_attention_groups import views

MODEL_TYPES = frozenset({"deberta-v2"})
SCORES = 1 << 21  # of some sequences; up to four times as many products with distances are held beside them


@dataclass(frozen=True)
class _Layer(PackedLayer):
    # What queries and keys are compared with, [heads, head_dim, distances], over the root that scores are divided by.
    for_queries: torch.Tensor | None
    for_keys: torch.Tensor | None


class PackedDeberta(PostNormEncoder):
    """A DeBERTa-v2 base model. Raises TypeError for those with a convolution or of absolute positions, and on a GPU."""

    def __init__(self, base: Any, device: str) -> None:
        config, encoder, embeddings = base.config, base.encoder, base.embeddings
        if device != "cpu" or encoder.conv is not None or not encoder.relative_attention:
            raise TypeError("There is no such attention.")
        self._encoder, self._heads = encoder, config.num_attention_heads
        self._words = embeddings.word_embeddings.weight
        self._positions = embeddings.position_embeddings  # each of these three may be None
        self._types = embeddings.token_type_embeddings
        self._widened = None if embeddings.embed_proj is None else Linear.of(embeddings.embed_proj)
        self._norm = Norm.of(embeddings.LayerNorm)
        attention = encoder.layer[0].attention.self
        self._root = (attention.attention_head_size * (1 + len({"c2p", "p2c"} & set(attention.pos_att_type)))) ** 0.5
        self._span = attention.pos_ebd_size
        self._distances: dict[int, torch.Tensor] = {}
        layers: list[PackedLayer] = [self._layer_of(layer) for layer in encoder.layer]
        super().__init__(device, self._words.dtype, layers, encoder.layer[0].intermediate.intermediate_act_fn)
        self.batch_free = False  # products of many small matrices choose their way by how many there are

    def _begin(self, block: Block) -> tuple[torch.Tensor, None]:
        x = self._words[block.ids]
        if self._positions is not None:
            x = x + self._positions(block.positions)
        if self._types is not None:
            x = x + self._types(torch.zeros_like(block.ids) if block.types is None else block.types)
        return self._norm(x if self._widened is None else self._widened(x)), None

    def _attend(self, layer: PackedLayer, x: torch.Tensor, block: Block, context: None) -> torch.Tensor:
        assert isinstance(layer, _Layer)
        qkv = layer.qkv(x).view(len(x), 3, self._heads, -1)
        out = x.new_empty(len(x), self._heads, qkv.shape[-1])
        for first, count, length in self._few_at_a_time(block):
            query, key, value = views(qkv, first, count, length, length)  # [count, heads, length, head_dim]
            mask = self._compared(layer, query, key, length)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1 / self._root)
            out[first : first + count * length].view(count, length, self._heads, -1).copy_(mixed.transpose(1, 2))
        return flattened(block, out)

    def _few_at_a_time(self, block: Block) -> Iterator[tuple[int, int, int]]:
        """The block's sequences of one length, first token, number and length, of at most SCORES scores together."""
        for first, count, length in block.groups:
            most = max(SCORES // (self._heads * length**2), 1)
            for start in range(0, count, most):
                yield first + start * length, min(most, count - start), length

    def _compared(self, layer: _Layer, query: torch.Tensor, key: torch.Tensor, length: int) -> torch.Tensor | None:
        """[count, heads, length, length], what is added to the score that query i gives to key j."""
        ascending = self._within(length)
        added: torch.Tensor | None = None
        if layer.for_queries is not None:
            # [..., i, r] of distance length - 1 - r; that of i - j stands at i, j - i + length - 1
            added = _skewed(query @ layer.for_queries[..., ascending.flip(0)])
        if layer.for_keys is not None:
            # [..., j, r] of distance r - (length - 1); that of i - j stands at j, i - j + length - 1
            other = _skewed(key @ layer.for_keys[..., ascending]).transpose(2, 3)
            added = other.contiguous() if added is None else added + other
        return added

    def _within(self, length: int) -> torch.Tensor:
        """[2 * length - 1]: which entry stands for each distance from 1 - length to length - 1."""
        if length not in self._distances:
            places = self._encoder.get_rel_pos(torch.empty(1, length, 1))[0]  # [query, key]
            distances = torch.cat([places[0].flip(0), places[1:, 0]])
            self._distances[length] = (distances + self._span).clamp(0, 2 * self._span - 1)
        return self._distances[length]

    def _layer_of(self, layer: Any) -> _Layer:
        own = layer.attention.self
        entries = self._encoder.get_rel_embedding()[: 2 * self._span]  # [distances, hidden]

        def compared(kind: str, projection: str) -> torch.Tensor | None:
            if kind not in own.pos_att_type:
                return None
            shared = {"pos_key_proj": "key_proj", "pos_query_proj": "query_proj"}[projection]
            made = getattr(own, shared if own.share_att_key else projection)(entries) / self._root
            heads: torch.Tensor = made.view(len(entries), self._heads, -1).permute(1, 2, 0).contiguous()
            return heads

        return _Layer(
            qkv=Linear.of(own.query_proj, own.key_proj, own.value_proj),
            out=Linear.of(layer.attention.output.dense),
            attention_norm=Norm.of(layer.attention.output.LayerNorm),
            up=Linear.of(layer.intermediate.dense),
            down=Linear.of(layer.output.dense),
            output_norm=Norm.of(layer.output.LayerNorm),
            for_queries=compared("c2p", "pos_key_proj"),
            for_keys=compared("p2c", "pos_query_proj"),
        )


def _skewed(products: torch.Tensor) -> torch.Tensor:
    """[..., n, 2n - 1] seen as [..., n, n]: row a begins at place n - 1 - a, so that b stands at b - a + n - 1."""
    *_, n, width = products.shape
    shape, strides = (*products.shape[:-1], n), (*products.stride()[:-2], width - 1, 1)
    return products.as_strided(shape, strides, products.storage_offset() + n - 1)
