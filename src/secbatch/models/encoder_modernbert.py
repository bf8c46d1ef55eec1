"""ModernBERT over packed sequences.

Warner et al. 2024 (arXiv:2412.13663): norms before each block, gated linear units, rotary positions (Su et al.
2021, arXiv:2104.09864), and layers that only look at a window around each token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from secbatch.models.linear import Linear
from secbatch.models.packed import Block, Norm, exact_gelu
from secbatch.models.packed_attention import attend
from secbatch.models.packed_encoder import PackedEncoder

MODEL_TYPES = frozenset({"modernbert"})


@dataclass(frozen=True)
class _Layer:
    attention_norm: Norm | None  # the first layer has none: the embeddings are normed
    qkv: Linear
    out: Linear
    mlp_norm: Norm
    up: Linear
    gate: Linear
    down: Linear
    kind: str  # "full_attention" or "sliding_attention"


Rotations = dict[str, list[torch.Tensor]]  # by kind of layer, cos and sin of each token: [T, 1, 1, head_dim]


class PackedModernBert(PackedEncoder[_Layer]):
    """A ModernBERT base model."""

    def __init__(self, base: Any, device: str) -> None:
        config = base.config
        self._heads, self.head_width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self._window = config.sliding_window
        self._words = base.embeddings.tok_embeddings.weight
        self._norm = Norm.of(base.embeddings.norm)
        self._final_norm = Norm.of(base.final_norm)
        self._activation: Callable[[torch.Tensor], torch.Tensor] = base.layers[0].mlp.act
        self._gelu = exact_gelu(self._activation)
        self._rotary = base.rotary_emb
        super().__init__(device, self._words.dtype, [_layer_of(layer) for layer in base.layers])

    def _begin(self, block: Block) -> tuple[torch.Tensor, Rotations]:
        x = self._norm(self._words[block.ids])
        return x, {
            kind: [part[0][:, None, None] for part in self._rotary(x, block.positions[None], kind)]
            for kind in {layer.kind for layer in self._layers}
        }

    def _attend(self, layer: _Layer, x: torch.Tensor, block: Block, context: Rotations) -> torch.Tensor:
        normed = layer.attention_norm(x) if layer.attention_norm is not None else x
        qkv = layer.qkv(normed).view(len(x), 3, self._heads, -1)
        _rotate(qkv[:, :2], *context[layer.kind])
        return attend(qkv, block, self._window if layer.kind == "sliding_attention" else None)

    def _after_attention(self, layer: _Layer, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = layer.out.plus(attended, x)
        normed = layer.mlp_norm(x)
        wide = layer.up.gelu(normed) if self._gelu else self._activation(layer.up(normed))  # [T, intermediate]
        return layer.down.plus(wide.mul_(layer.gate(normed)), x)

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        return self._final_norm(x)


def _rotate(qk: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turns queries and keys ([T, 2, heads, head_dim]) by their positions, in place; float32, as the model does."""
    wide = qk.float()
    left, right = wide.chunk(2, dim=-1)
    turned = torch.cat((-right, left), dim=-1)
    qk.copy_(wide.mul(cos).add_(turned.mul_(sin)))


def _layer_of(layer: Any) -> _Layer:
    # The checkpoint has both in one matrix; apart, the activation is fused into the first.
    up, gate = layer.mlp.Wi.weight.detach().chunk(2)
    up_bias, gate_bias = layer.mlp.Wi.bias.detach().chunk(2) if layer.mlp.Wi.bias is not None else (None, None)
    return _Layer(
        attention_norm=Norm.of(layer.attn_norm) if isinstance(layer.attn_norm, torch.nn.LayerNorm) else None,
        qkv=Linear.of(layer.attn.Wqkv),
        out=Linear.of(layer.attn.Wo),
        mlp_norm=Norm.of(layer.mlp_norm),
        up=Linear(up, up_bias),
        gate=Linear(gate, gate_bias),
        down=Linear.of(layer.mlp.Wo),
        kind=layer.attention_type,
    )
