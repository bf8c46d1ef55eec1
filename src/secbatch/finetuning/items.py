"""Examples as a model sees them, and batches of them without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secbatch.models.sequences import TokenSequences

NOTHING = np.empty(0, np.int64)
IGNORED = -100  # among targets: there is nothing to predict


@dataclass(frozen=True)
class Item:
    """One sequence of tokens to learn from: an example, or a window over one that is longer than the model."""

    ids: np.ndarray  # [L] int32, special tokens among them
    example: int  # its example's place among all
    targets: np.ndarray = field(default_factory=lambda: NOTHING)  # what to predict; its form is the objective's own
    at: np.ndarray = field(default_factory=lambda: NOTHING)  # [m] int64: the tokens that targets are for
    places: np.ndarray = field(default_factory=lambda: NOTHING)  # [m, …]: where those tokens stand in the example
    types: np.ndarray | None = None  # [L] int64: token types, where the model knows more than one
    extra: int = 0  # tokens beside `ids` that it costs: those that a decoder writes

    @property
    def length(self) -> int:
        return len(self.ids) + self.extra


@dataclass(frozen=True)
class Batch:
    """Items for one forward pass, longest first, laid end to end."""

    sequences: TokenSequences  # [B] sequences, T tokens in all
    items: tuple[Item, ...]
    types: np.ndarray | None  # [T] int64
    at: np.ndarray  # [m] int64: places in the T tokens of the items' `at`, in the items' order
    targets: Any = None  # numpy array or arrays, made by the objective
    weight: float = 1.0  # how much the batch's mean loss counts beside those of other batches: its targets

    @classmethod
    def of(cls, items: Sequence[Item]) -> "Batch":
        chosen = tuple(sorted(items, key=lambda item: -len(item.ids)))
        sequences = TokenSequences.of([item.ids for item in chosen])
        types = None
        if chosen[0].types is not None:
            types = np.concatenate([item.types for item in chosen if item.types is not None])
        at = [item.at + start for item, start in zip(chosen, sequences.offsets[:-1], strict=True)]
        return cls(sequences, chosen, types, np.concatenate(at) if at else NOTHING)

    @property
    def tokens(self) -> int:
        """Real tokens: there are no others."""
        return sum(item.length for item in self.items)
