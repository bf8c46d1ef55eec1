"""What is learned: the contract between the training loop and the tasks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.evaluation.classification import LabelFigures
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.network import Network
from secbatch.models.tokenizer import TextTokenizer

EVALUATION_TOKENS = 4096  # of a batch without gradients
Confusion = tuple[str, str, int]  # (true, predicted, how often)
Batches = Callable[[], Iterator[Batch]]


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on some examples."""

    metrics: dict[str, float]  # loss among them, always
    by_label: tuple[LabelFigures, ...] = ()
    confused: tuple[Confusion, ...] = ()  # the most frequent first


class Objective(ABC):
    """One kind of task: how examples become items, items a loss, and outputs figures."""

    auto_class: str  # of transformers
    whole_sequences = False  # one prediction a sequence rather than one a token
    new_head = True  # the head is made anew where the base has none

    def config(self) -> dict[str, Any]:
        """What the model's configuration must say: labels, problem type."""
        return {}

    @abstractmethod
    def items(self, examples: Sequence[Any], tokenizer: TextTokenizer, max_length: int) -> list[Item]:
        """Every example as one or several sequences of at most `max_length` tokens."""

    @abstractmethod
    def batch(self, items: Sequence[Item], random: np.random.Generator | None) -> Batch:
        """Items with their targets. `random` is for what is drawn anew each time; None: the same every time."""

    @abstractmethod
    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        """Mean over the batch's targets, a scalar with gradients."""

    @abstractmethod
    def evaluate(self, network: Network, examples: Sequence[Any], batches: Batches) -> Evaluation:
        """Figures over all examples. `batches` gives their items batch by batch."""


class MeanLoss:
    """The mean loss over batches of different weights."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, loss: torch.Tensor, weight: float) -> None:
        self._sum += float(loss.float()) * weight
        self._weight += weight

    @property
    def value(self) -> float:
        return self._sum / self._weight if self._weight else 0.0

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.value, 700.0))  # what a float can hold


def class_weights(counts: np.ndarray, how: str) -> torch.Tensor | None:
    """[C] float32 weights for classes that occur `counts` [C] times: their mean over all targets is 1."""
    if how == "none":
        return None
    weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
    if how == "sqrt":
        weights = np.sqrt(weights)
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, smoothing: float
) -> torch.Tensor:
    """Mean over the `targets` [n], each as heavy as its class in `weights` [C]; `smoothing` goes to all classes alike.

    torch's own gives the smoothed share by weight: most of it to classes that hardly ever occur, or never, such as the
    I- tag of spans that are one token.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    heavy = weights.to(logits.device)[targets]
    each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return (each * heavy).sum() / heavy.sum()
