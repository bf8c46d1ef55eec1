"""The vocabulary head of a masked language model, apart from its encoder."""

from typing import Any

import torch

from secbatch.models.head_on_states import HeadOnStates


class MaskedLMHead:
    """Logits for chosen positions only: the model's own head runs over them as if they were one sequence.

    That works for every architecture whose head treats each position alone, which the caller checks.
    """

    def __init__(self, model: Any) -> None:
        """Raises TypeError for a model without a base model apart from itself."""
        self._head = HeadOnStates(model)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, hidden] to [M, vocabulary]"""
        logits: torch.Tensor = self._head(hidden[None]).logits
        return logits[0]
