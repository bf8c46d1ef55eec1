"""Linear layers whose operands are rounded to 8 bits and multiplied in float32.

What an int8 product would give but for the rounding of float32 sums: integers up to 127 × 255 × 3,072 are added up
exactly in int32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F

from secbatch.models import encoder, encoder_bert

LayerKind = Literal["qkv", "out", "up", "down"]
KINDS: tuple[LayerKind, ...] = ("qkv", "out", "up", "down")


@dataclass(frozen=True)
class Recipe:
    """Which products of the encoder's layers are in int8, and how their activations are rounded.

    Weights have a scale for each output channel, activations one for each token, from their own values. The vocabulary
    head stays as it is.
    """

    name: str
    asymmetric: bool = False
    float32_kinds: tuple[LayerKind, ...] = ()
    float32_layers: tuple[int, ...] = ()  # as indices, from the end where negative


def symmetric(values: torch.Tensor) -> torch.Tensor:
    """Rows of [n, m] rounded to -127 … 127 times a scale of their own."""
    scale = values.abs().amax(1, keepdim=True).clamp(min=1e-9) / 127
    return (values / scale).round() * scale


def asymmetric(values: torch.Tensor) -> torch.Tensor:
    """Rows of [n, m] rounded to 256 steps from their smallest value, or 0, to their largest."""
    low, high = values.amin(1, keepdim=True).clamp(max=0), values.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=1e-9) / 255
    zero = (-low / scale).round()
    return ((values / scale).round() + zero).clamp(0, 255).sub(zero) * scale


class SimulatedInt8:
    """As `secbatch.models.linear.Linear`: x [T, in] to [T, out]."""

    def __init__(self, modules: list[torch.nn.Linear], recipe: Recipe) -> None:
        self._weight = symmetric(torch.cat([module.weight.detach() for module in modules]))  # [out, in]
        self._bias = torch.cat([module.bias.detach() for module in modules])
        self._rounded: Callable[[torch.Tensor], torch.Tensor] = asymmetric if recipe.asymmetric else symmetric

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self._rounded(x), self._weight, self._bias)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self(x))

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self(x) + residual


@contextmanager
def simulated(recipe: Recipe, layers: int) -> Iterator[None]:
    """BERT and RoBERTa models of so many layers that are loaded within have the recipe's products."""
    exact_layer = encoder_bert._layer_of
    in_float32 = {number % layers for number in recipe.float32_layers}
    made = 0

    def layer_of(layer: Any) -> Any:
        nonlocal made
        number, made = made % layers, made + 1
        exact = exact_layer(layer)
        if number in in_float32:
            return exact
        kinds = [kind for kind in KINDS if kind not in recipe.float32_kinds]
        rounded: dict[str, Any] = {kind: SimulatedInt8(_modules(layer, kind), recipe) for kind in kinds}
        return replace(exact, **rounded)

    # Else the packed path is refused, since it gives something else than the model's own forward.
    anything = patch.dict(encoder._TOLERANCE, float32=float("inf"))
    with patch.object(encoder_bert, "_layer_of", layer_of), anything:
        yield
    if not made:
        raise SystemExit("int8 is simulated in models of BERT's and RoBERTa's kind only.")


def _modules(layer: Any, kind: LayerKind) -> list[torch.nn.Linear]:
    attention = layer.attention
    return {
        "qkv": [attention.self.query, attention.self.key, attention.self.value],
        "out": [attention.output.dense],
        "up": [layer.intermediate.dense],
        "down": [layer.output.dense],
    }[kind]
