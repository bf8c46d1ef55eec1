"""ModernBERT over packed sequences.

Warner et al. 2024 (arXiv:2412.13663): norms before each block, gated linear units, rotary positions (Su et al.
2021, arXiv:2104.09864), and layers that only look at a window around each token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secbatch.models.linear import Linear, has_blocked_layers
from secbatch.models.packed import Norm, attend, exact_gelu, pack, take
from secbatch.models.sequences import TokenSequences

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


class PackedModernBert:
    """`last_hidden_state` of a ModernBERT base model (transformers' module) without padding."""

    packed = True

    def __init__(self, base: Any, device: str) -> None:
        config = base.config
        self._device = device
        self._heads = config.num_attention_heads
        self._window = config.sliding_window
        self._words = base.embeddings.tok_embeddings.weight
        self._norm = Norm.of(base.embeddings.norm)
        self._final_norm = Norm.of(base.final_norm)
        self._activation: Callable[[torch.Tensor], torch.Tensor] = base.layers[0].mlp.act
        self._gelu = exact_gelu(self._activation)
        self._rotary = base.rotary_emb
        # oneDNN's products treat each row alone; other libraries choose an order of summation by the batch.
        self.batch_free = has_blocked_layers(self._words.dtype) and device == "cpu"
        self._layers = [_layer_of(layer) for layer in base.layers]

    def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor:
        """[T, hidden] for sequences sorted longest first; only the tokens `at` [m], where given: [m, hidden]."""
        batch = pack(sequences, self._device)
        x = self._norm(self._words[batch.ids])  # [T, hidden]
        # cos and sin of each position, by kind of layer: [T, 1, 1, head_dim]
        rotations = {
            kind: [part[0][:, None, None] for part in self._rotary(x, batch.positions[None], kind)]
            for kind in {layer.kind for layer in self._layers}
        }
        for layer in self._layers:
            normed = layer.attention_norm(x) if layer.attention_norm is not None else x
            qkv = layer.qkv(normed).view(len(x), 3, self._heads, -1)
            _rotate(qkv[:, :2], *rotations[layer.kind])
            window = self._window if layer.kind == "sliding_attention" else None
            attended = attend(qkv, batch.groups, window)
            if at is not None and layer is self._layers[-1]:
                attended, x = take((attended, x), at)  # nobody looks at the others any more
            x = layer.out.plus(attended, x)
            normed = layer.mlp_norm(x)
            wide = layer.up.gelu(normed) if self._gelu else self._activation(layer.up(normed))  # [T, intermediate]
            x = layer.down.plus(wide.mul_(layer.gate(normed)), x)
        return self._final_norm(x[: batch.tokens if at is None else len(at)])


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
