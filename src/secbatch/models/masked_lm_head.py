"""The vocabulary head of a masked language model, apart from its encoder."""

from typing import Any

import torch
from torch import nn


class _Given(nn.Module):
    """Stands in for a base model: its output is handed to it, all else is the base model's own."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        # Not a registered child: the stand-in owns no weights.
        object.__setattr__(self, "_base", base)
        object.__setattr__(self, "given", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_base"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.given)


class MaskedLMHead:
    """Logits for chosen positions only: the model's own head runs over them as if they were one sequence.

    Swapping the base model for its output works for every architecture whose head treats each position alone,
    which the caller checks.
    """

    def __init__(self, model: Any) -> None:
        base = model.base_model
        name = next((name for name, child in model.named_children() if child is base), None)
        if name is None:
            raise TypeError(f"{type(model).__name__} has no base model apart from itself")
        self._model = model
        self._name = name
        self._base = base
        self._given = _Given(base)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, hidden] to [M, vocabulary]"""
        self._given.__dict__["given"] = hidden[None]
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        self._model._modules[self._name] = self._given
        try:
            logits: torch.Tensor = self._model(input_ids=ids).logits
        finally:
            self._model._modules[self._name] = self._base
            self._given.__dict__["given"] = None
        return logits[0]
