"""The order of a training: which items make which step, a pure function of seed and epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POOL = 1024  # items that are sorted by length together: enough for batches of one length, few enough to stay mixed


@dataclass(frozen=True)
class Plan:
    """Steps of every epoch: arrays of item numbers."""

    epochs: tuple[tuple[np.ndarray, ...], ...]

    @property
    def steps(self) -> int:
        return sum(len(epoch) for epoch in self.epochs)


def plan_training(lengths: np.ndarray, batch_tokens: int, epochs: int, seed: int) -> Plan:
    """Batches of at most `batch_tokens` tokens (a longer item is a batch of its own), in a fresh order each epoch.

    `lengths`: [n] tokens of each item.
    """
    return Plan(tuple(_epoch(lengths, batch_tokens, np.random.default_rng([seed, epoch])) for epoch in range(epochs)))


def plan_evaluation(lengths: np.ndarray, batch_tokens: int) -> tuple[np.ndarray, ...]:
    """Batches of all items, longest first."""
    return tuple(_cut(np.argsort(-lengths, kind="stable"), lengths, batch_tokens))


def parts_of(step: np.ndarray, count: int) -> list[np.ndarray]:
    """A step's items in `count` parts that are computed one after another; fewer where there are fewer items."""
    return [part for part in np.array_split(step, count) if len(part)]


def _epoch(lengths: np.ndarray, batch_tokens: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    order = random.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), POOL):
        pool = order[start : start + POOL]
        batches += _cut(pool[np.argsort(lengths[pool], kind="stable")], lengths, batch_tokens)
    return tuple(batches[place] for place in random.permutation(len(batches)))


def _cut(order: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> Sequence[np.ndarray]:
    batches, start, tokens = [], 0, 0
    for place, length in enumerate(lengths[order]):
        if place > start and tokens + length > batch_tokens:
            batches.append(order[start:place])
            start, tokens = place, 0
        tokens += int(length)
    return [*batches, order[start:]] if start < len(order) else batches
