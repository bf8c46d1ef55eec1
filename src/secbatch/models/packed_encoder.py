"""The order in which packed encoders go through their layers.

A batch is worked off layer by layer and, within a layer, block by block: a layer's weights come from memory once for
a large batch and stay in the processor's last cache while it is in use, and what a block makes within a layer is small
enough for the caches nearer by. (Goto and van de Geijn 2008, doi:10.1145/1356052.1356053, on the order of loops around
a matrix product; here the order is that of whole layers.) On a GPU, which has no use for it, a batch is one
block.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.models.linear import has_blocked_layers
from secbatch.models.packed import ROWS, Block, blocks
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import on_device

Layer = TypeVar("Layer")
Attended = tuple[
    torch.Tensor, torch.Tensor
]  # the mixed values of all heads, and the rows they are of: [T, hidden] each


class PackedEncoder(ABC, Generic[Layer]):
    """`last_hidden_state` of a base model (transformers' module) without padding."""

    packed = True
    head_width: int | None = None  # of those whose attention is `packed_attention.attend`

    def __init__(self, device: str, dtype: torch.dtype, layers: list[Layer], placeless: int | None = None) -> None:
        """`placeless`: as of `blocks`."""
        self._device, self._placeless = device, placeless
        self._layers = layers
        # oneDNN's products treat each row alone; other libraries choose an order of summation by the batch.
        self.batch_free = has_blocked_layers(dtype) and device == "cpu"

    def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor:
        """[T, hidden] for sequences sorted longest first; only the tokens `at` [m], ascending: [m, hidden]."""
        parts = blocks(sequences, self._device, self._placeless)
        states = self._states(parts, at)
        if self._device == "cpu" and not states.sum().isfinite():
            # Some sequence has no numbers, which must not be another one's fault.
            states = self._states([replace(block, neighbours=False) for block in parts], at)
        return states

    def _states(self, parts: list[Block], at: np.ndarray | None) -> torch.Tensor:
        last = self._layers[-1]
        if at is not None:  # nobody looks at the others any more
            chosen = [
                (attended[where], x[where])
                for (attended, x), where in zip(self._through(parts), self._places(parts, at), strict=True)
            ]
            attended, x = (_joined(rows) for rows in zip(*chosen, strict=True))
            return self._end(self._after_attention(last, attended, x)[: len(at)])
        done = [
            self._after_attention(last, attended, x)[: block.tokens]
            for (attended, x), block in zip(self._through(parts), parts, strict=True)
        ]
        return self._end(torch.cat(done) if len(done) > 1 else done[0])

    def _through(self, parts: list[Block]) -> Iterator[Attended]:
        """What the last layer's attention made of each block, and what it was made of."""
        # Rows [T, hidden] and what else of a block its layers want.
        begun = [self._begin(block) for block in parts]
        states = [x for x, _ in begun]
        *earlier, last = self._layers
        for layer in earlier:
            for n, block in enumerate(parts):
                attended = self._attend(layer, states[n], block, begun[n][1])
                states[n] = self._after_attention(layer, attended, states[n])
        for x, block, (_, context) in zip(states, parts, begun, strict=True):
            yield self._attend(last, x, block, context), x

    def _places(self, parts: list[Block], at: np.ndarray) -> list[torch.Tensor]:
        """`at`, places in all tokens, as places in each block."""
        firsts = np.cumsum([0, *(block.tokens for block in parts)])
        bounds = np.searchsorted(at, firsts)
        return [
            on_device(at[low:high] - first, self._device)
            for first, low, high in zip(firsts, bounds, bounds[1:], strict=False)
        ]

    @abstractmethod
    def _begin(self, block: Block) -> tuple[torch.Tensor, Any]:
        """Embeddings [T, hidden], and what the layers' attention wants besides."""

    @abstractmethod
    def _attend(self, layer: Layer, x: torch.Tensor, block: Block, context: Any) -> torch.Tensor:
        """[T, hidden] to the mixed values of all heads, [T, hidden], before the layer's output product."""

    @abstractmethod
    def _after_attention(self, layer: Layer, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The rest of a layer, in which rows have nothing to do with each other."""

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        """What follows the last layer."""
        return x


def _joined(rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Rows of all blocks, and filling."""
    return F.pad(torch.cat(rows), (0, 0, 0, -sum(map(len, rows)) % ROWS))
