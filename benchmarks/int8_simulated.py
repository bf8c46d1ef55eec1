"""Linear layers whose operands are rounded to 8 bits and multiplied in float32.

What an int8 product would give but for the rounding of float32 sums: integers up to 127 × 255 × 3,072 are added up
exactly in int32. What a recipe has to know of a layer's inputs it learns from texts that are not measured.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from int8_rounding import asymmetric, compensated, in_two_parts, smoothing, symmetric, widest

from secbatch.models import encoder, encoder_bert

LayerKind = Literal["qkv", "out", "up", "down"]
KINDS: tuple[LayerKind, ...] = ("qkv", "out", "up", "down")
Inputs = dict[tuple[int, LayerKind], torch.Tensor]  # by layer and kind: [n, in]
Rounding = Callable[[torch.Tensor], torch.Tensor]
ACTIVATIONS: dict[str, Rounding] = {
    "exact": lambda values: values,
    "symmetric": symmetric,
    "asymmetric": asymmetric,
    "two products": in_two_parts,
}


@dataclass(frozen=True)
class Recipe:
    """Which products of the encoder's layers are in int8, and how their operands are rounded.

    Weights have a scale for each output channel, activations one for each token, from their own values. The vocabulary
    head stays as it is.
    """

    name: str
    activations: Literal["exact", "symmetric", "asymmetric", "two products"] = "asymmetric"
    weights: Literal["exact", "nearest", "compensated"] = "nearest"
    smoothing: float | None = None
    float32_channels: int = 0  # of a product's inputs: those that reach farthest
    float32_kinds: tuple[LayerKind, ...] = ()
    float32_layers: tuple[int, ...] = ()  # as indices, from the end where negative


class SimulatedInt8:
    """As `secbatch.models.linear.Linear`: x [T, in] to [T, out]."""

    def __init__(self, modules: list[torch.nn.Linear], recipe: Recipe, inputs: torch.Tensor | None = None) -> None:
        """`inputs`: [n, in], which smoothing, float32 channels and compensated weights are made for."""
        weight = torch.cat([module.weight.detach() for module in modules])  # [out, in]
        self._bias = torch.cat([module.bias.detach() for module in modules])
        self._factors = torch.ones(weight.shape[1])
        if recipe.smoothing is not None and inputs is not None:
            self._factors = smoothing(weight, inputs, recipe.smoothing)
            weight, inputs = weight * self._factors, inputs / self._factors
        self._weight = weight if recipe.weights == "exact" else symmetric(weight)
        if recipe.weights == "compensated" and inputs is not None:
            self._weight = compensated(weight, inputs)
            self._bias = self._bias + (weight - self._weight) @ inputs.mean(0)
        few = 0 if inputs is None else recipe.float32_channels
        self._in_float32 = widest(inputs, few) if few and inputs is not None else torch.empty(0, dtype=torch.int64)
        self._weight[:, self._in_float32] = weight[:, self._in_float32]
        self._rounded = ACTIVATIONS[recipe.activations]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x / self._factors
        rounded = self._rounded(x.index_fill(1, self._in_float32, 0.0))
        rounded[:, self._in_float32] = x[:, self._in_float32]
        return F.linear(rounded, self._weight, self._bias)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self(x))

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self(x) + residual


class _Recorded(SimulatedInt8):
    """An exact product that keeps what it is called with."""

    def __init__(self, modules: list[torch.nn.Linear], kept: list[torch.Tensor]) -> None:
        super().__init__(modules, Recipe("exact", "exact", "exact"))
        self._kept = kept

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        # Filling that attention does not look at holds anything.
        self._kept.append(x[x.isfinite().all(1)].clone())
        return super().__call__(x)


@contextmanager
def simulated(recipe: Recipe, layers: int, inputs: Inputs) -> Iterator[None]:
    """BERT and RoBERTa models of so many layers that are loaded within have the recipe's products."""
    in_float32 = {number % layers for number in recipe.float32_layers}

    def product(number: int, kind: LayerKind, modules: list[torch.nn.Linear]) -> SimulatedInt8 | None:
        if number in in_float32 or kind in recipe.float32_kinds:
            return None
        return SimulatedInt8(modules, recipe, inputs.get((number, kind)))

    with _replaced(product, layers):
        yield


@contextmanager
def recorded(layers: int, inputs: Inputs) -> Iterator[None]:
    """Fills `inputs` with what the products of such a model that is loaded and run within are called with."""
    kept: dict[tuple[int, LayerKind], list[torch.Tensor]] = {}

    def product(number: int, kind: LayerKind, modules: list[torch.nn.Linear]) -> SimulatedInt8:
        return _Recorded(modules, kept.setdefault((number, kind), []))

    with _replaced(product, layers):
        yield
    inputs.update({key: torch.cat(parts) for key, parts in kept.items()})


Product = Callable[[int, LayerKind, list[torch.nn.Linear]], SimulatedInt8 | None]


@contextmanager
def _replaced(product: Product, layers: int) -> Iterator[None]:
    exact_layer = encoder_bert._of_bert
    made = 0

    def layer_of(layer: Any) -> Any:
        nonlocal made
        number, made = made % layers, made + 1
        products = {kind: product(number, kind, _modules(layer, kind)) for kind in KINDS}
        changed: dict[str, Any] = {kind: one for kind, one in products.items() if one is not None}
        return replace(exact_layer(layer), **changed)

    # Else the packed path is refused, since it gives something else than the model's own forward.
    anything = patch.dict(encoder._TOLERANCE, float32=float("inf"))
    with patch.object(encoder_bert, "_of_bert", layer_of), anything:
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
