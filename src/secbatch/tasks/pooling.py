"""A text's hidden states to one vector."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from secbatch.models.requests import Request
from secbatch.models.sequence_means import sequence_means
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import Made

Pooling = Literal["mean", "first"]


def pooling_request(sequences: TokenSequences, vectors: np.ndarray, pooling: Pooling, normalize: bool) -> Request:
    """What writes the vector of each of `sequences` [u] into `vectors` [u, width] float32."""
    first = pooling == "first"

    def wanted(batch: TokenSequences) -> np.ndarray | None:
        return batch.offsets[:-1] if first else None

    def pool(rows: np.ndarray, batch: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
        pooled = states.float() if first else sequence_means(states, batch)
        if normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        yield Made(vectors, rows, pooled)

    return Request(sequences, wanted, pool)


def not_finite(vectors: np.ndarray, model: str) -> dict[int, str]:
    """A sentence for each row of `vectors` [u, width] that holds something else than numbers."""
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    return dict.fromkeys(broken, f"model {model} gave a vector with values that are no numbers")
