"""Any architecture, through the model's own forward."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from secbatch.models.configuration import changes_beyond
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import on_device

FEW = 8  # tokens that every architecture takes: of fewer than five, Funnel's pooling leaves nothing

# Ids, attention mask and, where there are any, `token_type_ids`, each [B, L], to [B, L, width].
Forward = Callable[..., torch.Tensor]


class StockEncoder:
    """`last_hidden_state` of a base model (transformers' module), padded or in batches of one length.

    Some architectures let padding into the results of the tokens beside it (FNet, ConvBERT, Nyströmformer): those
    must not be padded.
    """

    batch_free = False

    def __init__(self, base: Any, pad_id: int, device: str, pad: bool) -> None:
        self.packed = not pad
        self._base = base
        self._pad_id = pad_id
        self._device = device
        self._beyond = changes_beyond(base.config)

    def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor:
        """[T, hidden]: the real positions only, laid end to end; of these the positions `at`, where given."""

        def forward(ids: torch.Tensor, mask: torch.Tensor, **types: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self._base(input_ids=ids, attention_mask=mask, **types)[0]
            if states.dim() == 3:
                return states
            # DPR gives one vector a text, and all others on demand
            every = self._base(input_ids=ids, attention_mask=mask, output_hidden_states=True, **types).hidden_states
            last: torch.Tensor = every[-1]
            return last

        states = over_real_tokens(forward, sequences, self._pad_id, self._device, not self.packed, self._beyond)
        return states if at is None else states[on_device(at, self._device)]


def over_real_tokens(
    forward: Forward, sequences: TokenSequences, pad_id: int, device: str, pad: bool, beyond: int | None = None
) -> torch.Tensor:
    """What `forward` gives at the real positions, [T, width], with padding on the right or without any.

    Sequences that are too short for an architecture are padded to FEW tokens, the others beside them are not.
    `beyond`: as of `changes_beyond`; longer sequences, which come first, are not padded, and stand beside no others.
    """
    if pad:
        long = 0 if beyond is None else int((sequences.lengths > beyond).sum())
        if not long:
            return _padded(forward, sequences, pad_id, device)
        apart = over_real_tokens(forward, sequences.slice(0, long), pad_id, device, pad=False)
        rest = sequences.slice(long, len(sequences))
        return torch.cat([apart, _padded(forward, rest, pad_id, device)]) if len(rest) else apart
    flat = _on(sequences.ids, device)
    types = None if sequences.types is None else _on(sequences.types, device)
    parts = []
    row = 0
    for first, count, length in sequences.groups():
        place = slice(first, first + count * length)
        ids = flat[place].view(count, length)
        extra = {} if types is None else {"token_type_ids": types[place].view(count, length)}
        try:
            parts.append(forward(ids, torch.ones_like(ids), **extra).flatten(0, 1))
        except RuntimeError as error:
            if length >= FEW or is_out_of_memory(error):
                raise
            parts.append(_padded(forward, sequences.slice(row, row + count), pad_id, device, FEW))
        row += count
    return torch.cat(parts)


def _padded(forward: Forward, sequences: TokenSequences, pad_id: int, device: str, least: int = 0) -> torch.Tensor:
    """`least`: tokens that all are padded to."""
    ids, mask = sequences.padded(pad_id, least=least)
    real = np.flatnonzero(mask)  # found on the host: a GPU would be waited for
    extra = {}
    if sequences.types is not None:
        types = np.zeros_like(ids)
        types.flat[real] = sequences.types
        extra["token_type_ids"] = on_device(types, device)
    try:
        states = forward(on_device(ids, device), on_device(mask, device), **extra)
    except RuntimeError as error:
        if ids.shape[1] >= FEW or is_out_of_memory(error):
            raise
    else:
        if states.shape[:2] != ids.shape:
            raise IndexError(f"for tokens {ids.shape} the model gives states {tuple(states.shape)}")
        return states.flatten(0, 1)[on_device(real, device)]
    return _padded(forward, sequences, pad_id, device, FEW)


def _on(numbers: np.ndarray, device: str) -> torch.Tensor:
    return on_device(numbers.astype("int64"), device)
