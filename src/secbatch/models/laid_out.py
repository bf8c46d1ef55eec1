"""The linear layers of a transformers module, changed in place for ones with the layout for inference (linear.py)."""

from collections.abc import Callable
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

from secbatch.models.linear import Linear, has_blocked_layers
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.packed import ROWS

# What a model raises whose modules are laid out in another way than is expected.
REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
FEW = 64  # rows from which on filling them up to a multiple of ROWS costs little; see packed.py


class LaidOut(nn.Module):
    """A linear layer whose rows are the same bits in any batch."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._linear = Linear.of(layer)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias

    @property
    def weight(self) -> torch.Tensor:
        """[out, in], in a layout of its own: models ask for its number format (T5)."""
        return self._linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]"""
        rows = x.reshape(-1, self.in_features)
        if len(rows) > FEW:
            rows = F.pad(rows, (0, 0, 0, -len(rows) % ROWS))
        count = x.numel() // self.in_features
        return self._linear(rows)[:count].view(*x.shape[:-1], self.out_features)

    def plain(self) -> nn.Linear:
        """What it was made of, bit for bit."""
        with torch.device("meta"):
            layer = nn.Linear(self.in_features, self.out_features, bias=False)
        layer.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        layer.bias = self.bias
        return layer


def can_be_laid_out(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer on a CPU with such a layout, and not one that computes in another way."""
    return type(module) is nn.Linear and module.weight.device.type == "cpu" and has_blocked_layers(module.weight.dtype)


def lay_out(module: nn.Module, same: Callable[[], bool]) -> None:
    """Gives the module's linear layers the layout for inference, unless `same` says no, or raises, after it.

    `same`: whether the module gives what it gave before. Raises what says that memory runs out.
    """
    layers = LaidOutLayers(module)
    try:
        kept = same()
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        kept = False
    if not kept:
        layers.undo()


class LaidOutLayers:
    """All linear layers of a module for which that goes; their weights are not kept twice.

    A weight that is another module's as well, as a vocabulary's embeddings, stays there.
    """

    def __init__(self, module: nn.Module) -> None:
        self._changed: list[tuple[nn.Module, str]] = []
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if can_be_laid_out(child):
                    setattr(parent, name, LaidOut(child))
                    self._changed.append((parent, name))

    def undo(self) -> None:
        for parent, name in self._changed:
            setattr(parent, name, getattr(parent, name).plain())
