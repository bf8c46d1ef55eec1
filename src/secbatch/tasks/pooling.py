"""A text's hidden states to one vector."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from secbatch.models.requests import Request
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import Made, on_device

Pooling = Literal["mean", "first"]


def pooling_request(sequences: TokenSequences, vectors: np.ndarray, pooling: Pooling, normalize: bool) -> Request:
    """What writes the vector of each of `sequences` [u] into `vectors` [u, width] float32."""
    first = pooling == "first"

    def wanted(batch: TokenSequences) -> np.ndarray | None:
        return batch.offsets[:-1] if first else None

    def pool(rows: np.ndarray, batch: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
        pooled = states.float() if first else _means(states, batch)
        if normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        yield Made(vectors, rows, pooled)

    return Request(sequences, wanted, pool)


def not_finite(vectors: np.ndarray, model: str) -> dict[int, str]:
    """A sentence for each row of `vectors` [u, width] that holds something else than numbers."""
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    return dict.fromkeys(broken, f"model {model} gave a vector with values that are no numbers")


def _means(states: torch.Tensor, sequences: TokenSequences) -> torch.Tensor:
    """[T, hidden] to the float32 mean of each sequence, [rows, hidden]."""
    if states.is_cuda:
        offsets = on_device(sequences.offsets, states.device)
        return torch.segment_reduce(states.float(), "mean", offsets=offsets)
    # Sequences of one length are a [count, length, hidden] view.
    return torch.cat(
        [
            states[first : first + count * length].view(count, length, -1).float().mean(dim=1)
            for first, count, length in sequences.groups()
        ]
    )
