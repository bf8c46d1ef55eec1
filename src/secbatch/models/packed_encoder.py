"""The order in which packed encoders go through their layers.

A batch is worked off layer by layer and, within a layer, block by block: a layer's weights come from memory once for
a large batch and stay in the processor's last cache while it is in use, and what a block makes within a layer is small
enough for the caches nearer by. (Goto and van de Geijn 2008, doi:10.1145/1356052.1356053, on the order of loops around
a matrix product; here the order is that of whole layers.) Blocks have nothing to do with each other, so some of the
cores work off one and others another (streams.py). On a GPU, which has no use for it, a batch is one block.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.models.linear import has_blocked_layers
from secbatch.models.packed import ROWS, Block, blocks
from secbatch.models.sequences import TokenSequences
from secbatch.models.streams import Steps, side_by_side
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
        places = [None] * len(parts) if at is None else self._places(parts, at)
        works = [self._through(block, chosen) for block, chosen in zip(parts, places, strict=True)]
        done = side_by_side(works, _streams([block.tokens for block in parts]))
        if at is None:
            states = [states for states, _ in done]
            return self._end(torch.cat(states) if len(states) > 1 else states[0])
        attended, x = (_joined(rows) for rows in zip(*done, strict=True))
        return self._end(self._after_attention(self._layers[-1], attended, x)[: len(at)])

    def _through(self, block: Block, at: torch.Tensor | None) -> Steps[Attended]:
        """What the last layer's attention made of a block at the places `at`, and what it was made of.

        Without them all that follows the attention is done as well: [T, hidden], twice. A layer is a step.
        """
        x, context = self._begin(block)
        *earlier, last = self._layers
        for layer in earlier:
            yield
            x = self._after_attention(layer, self._attend(layer, x, block, context), x)
        yield
        attended = self._attend(last, x, block, context)
        if at is not None:  # nobody looks at the others any more
            return attended[at], x[at]
        x = self._after_attention(last, attended, x)[: block.tokens]
        return x, x

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


def let_go_of_layers(base: Any) -> None:
    """Frees the linear layers of a base model (transformers' module) whose packed encoder has their weights itself.

    Nobody calls the base model any more. Its pooler stays, as a part of the head.
    """
    pooler = getattr(base, "pooler", None)
    kept = set() if pooler is None else set(pooler.modules())
    for module in base.modules():
        if isinstance(module, torch.nn.Linear) and module not in kept:
            module.to("meta")


def _streams(tokens: list[int]) -> int:
    """How many streams may share blocks of so many tokens, and none is left with one when the others are through.

    A text that is longer than a block is one by itself, and may be most of a batch: all cores had better share it.
    """
    return int(sum(tokens) / max(tokens) + 0.25)


def _joined(rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Rows of all blocks, and filling."""
    return F.pad(torch.cat(rows), (0, 0, 0, -sum(map(len, rows)) % ROWS))
