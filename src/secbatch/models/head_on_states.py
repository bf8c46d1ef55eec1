"""The head of a model apart from its encoder: the model's own head runs over hidden states that it is handed."""

from typing import Any

import torch
from torch import nn

from secbatch.models.laid_out import LaidOut, can_be_laid_out


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
        from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

        pooler = getattr(self._base, "pooler", None)
        if pooler is None:
            return BaseModelOutput(last_hidden_state=self.given)
        return BaseModelOutputWithPooling(last_hidden_state=self.given, pooler_output=pooler(self.given))


class HeadOnStates:
    """A model whose base is swapped, for a call, for the base's output.

    That works for every architecture whose head looks at nothing but the last hidden states (and the base's own
    pooler over them), which the caller checks.
    """

    def __init__(self, model: Any) -> None:
        """Raises TypeError for a model without a base model apart from itself."""
        base = model.base_model
        name = next((name for name, child in model.named_children() if child is base), None)
        if name is None:
            raise TypeError(f"{type(model).__name__} has no base model apart from itself")
        self._model = model
        self._name = name
        self._base = base
        self._given = _Given(base)

    def __call__(self, states: torch.Tensor) -> Any:
        """The model's output for hidden states [n, length, hidden]."""
        self._given.__dict__["given"] = states
        ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
        self._model._modules[self._name] = self._given
        try:
            return self._model(input_ids=ids)
        finally:
            self._model._modules[self._name] = self._base
            self._given.__dict__["given"] = None


class FusedHead:
    """The linear layers of a model's head, changed in place for ones with the layout for inference."""

    def __init__(self, model: Any) -> None:
        base = model.base_model
        self._changed: list[tuple[nn.Module, str, nn.Linear]] = []
        parts = [(model, name, child) for name, child in model.named_children() if child is not base]
        if getattr(base, "pooler", None) is not None:
            parts.append((base, "pooler", base.pooler))
        for parent, name, part in parts:
            self._fuse(parent, name, part)
        leaves = [leaf for parent, name, _ in parts for leaf in getattr(parent, name).modules()]
        # Whether a row's result is the same, bit for bit, in any batch: all else that has weights treats rows apart.
        self.batch_free = all(
            isinstance(leaf, LaidOut | nn.LayerNorm) or not list(leaf.parameters(recurse=False)) for leaf in leaves
        )

    def undo(self) -> None:
        for parent, name, layer in self._changed:
            setattr(parent, name, layer)

    def _fuse(self, parent: nn.Module, name: str, part: nn.Module) -> None:
        if isinstance(part, nn.Linear):
            if can_be_laid_out(part):
                self._changed.append((parent, name, part))
                setattr(parent, name, LaidOut(part))
        else:
            for inner, child in list(part.named_children()):
                self._fuse(part, inner, child)
