"""One optimiser step computed by several single-threaded replicas of a model that share their weights.

Threads inside a matrix product wait for each other at every product; on cores that other work shares, the
slower one sets the pace thousands of times a step. Replicas meet once a step, and take the next piece of the
batch when they are free.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from transformers import BertForMaskedLM

Piece = TypeVar("Piece")


class Replicas(Generic[Piece]):
    """``count`` copies of a model with shared weights and gradients of their own.

    ``backward(model, piece)`` computes a loss and its gradients on the copy it is given and returns the loss;
    losses of one step must be scaled so that they add up to the loss of the whole batch.
    """

    def __init__(self, model: BertForMaskedLM, count: int, backward: Callable[[BertForMaskedLM, Piece], float]) -> None:
        self._models = [model]
        self._backward = backward
        for _ in range(count - 1):
            twin = copy.deepcopy(model)
            for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
                own.data = shared.data
            self._models.append(twin)
        self._free: Queue[BertForMaskedLM] = Queue()
        for replica in self._models:
            self._free.put(replica)
        self._threads = ThreadPoolExecutor(count, initializer=_prepare_thread)

    def step(self, pieces: Sequence[Piece]) -> float:
        """Gradients of the whole batch, left on the first model; returns the sum of the losses."""
        losses = list(self._threads.map(self._one, pieces))
        first, *others = self._models
        for twin in others:
            for parameter, other in zip(first.parameters(), twin.parameters(), strict=True):
                if other.grad is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = other.grad
                else:
                    parameter.grad += other.grad
                other.grad = None
        return sum(losses)

    def _one(self, piece: Piece) -> float:
        replica = self._free.get()
        try:
            return self._backward(replica, piece)
        finally:
            self._free.put(replica)


def _prepare_thread() -> None:
    """Flush subnormal numbers to zero in this thread; the setting is per thread."""
    import torch

    torch.set_flush_denormal(True)
