"""Any architecture: padded batches through the model's own forward."""

from typing import Any

import torch

from secbatch.models.sequences import TokenSequences


class PaddedEncoder:
    """`last_hidden_state` of a base model (transformers' module) that has no fast path of its own."""

    packed = False

    def __init__(self, base: Any, pad_id: int, device: str) -> None:
        self._base = base
        self._pad_id = pad_id
        self._device = device

    def __call__(self, sequences: TokenSequences) -> torch.Tensor:
        """[T, hidden]: the real positions only, laid end to end."""
        ids, real = padded_tensors(sequences, self._pad_id, self._device)
        hidden = self._base(input_ids=ids, attention_mask=real)[0]  # [rows, longest, hidden]
        return hidden[real.bool()]


def padded_tensors(sequences: TokenSequences, pad_id: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and attention mask, [rows, longest] int64, padded on the right."""
    ids, real = sequences.padded(pad_id)
    return torch.from_numpy(ids).to(device), torch.from_numpy(real).to(device)
