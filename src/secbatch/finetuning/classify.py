"""Sequence classification: one label a text, or a set of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.evaluation.classification import multi_label_figures, single_label_figures
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import Batches, Confusion, Evaluation, MeanLoss, Objective, cross_entropy
from secbatch.labelled.examples import TextExample
from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import TextTokenizer

THRESHOLD = 0.5  # of a label's probability, where a text may have several
SHOWN_PAIRS = 20


class Classify(Objective):
    auto_class = "AutoModelForSequenceClassification"
    whole_sequences = True

    def __init__(
        self, labels: Sequence[str], multi: bool, weights: torch.Tensor | None, label_smoothing: float
    ) -> None:
        """`weights`: [C] of the classes, or of their positive cases where `multi`."""
        self.labels, self.multi = tuple(labels), multi
        self._weights, self._smoothing = weights, label_smoothing
        self._number = {label: number for number, label in enumerate(self.labels)}

    def config(self) -> dict[str, Any]:
        kind = "multi_label_classification" if self.multi else "single_label_classification"
        return {"id2label": dict(enumerate(self.labels)), "label2id": self._number, "problem_type": kind}

    def items(self, examples: Sequence[TextExample], tokenizer: TextTokenizer, max_length: int) -> list[Item]:
        sequences = beginnings([example.text for example in examples], tokenizer, max_length)
        return [Item(sequences[i], i, self._targets(example)) for i, example in enumerate(examples)]

    def _targets(self, example: TextExample) -> np.ndarray:
        numbers = [self._number[label] for label in example.labels]
        if not self.multi:
            return np.array(numbers, np.int64)
        targets = np.zeros(len(self.labels), np.float32)
        targets[numbers] = 1
        return targets

    def batch(self, items: Sequence[Item], random: np.random.Generator | None) -> Batch:
        batch = Batch.of(items)
        targets = np.stack([item.targets for item in batch.items])
        if self.multi:
            return replace(batch, targets=targets, weight=len(items))
        targets = targets[:, 0]
        weight = float(len(items)) if self._weights is None else float(self._weights.numpy()[targets].sum())
        return replace(batch, targets=targets, weight=weight)

    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        return self._loss_of(network.sequence_logits(batch).float(), batch, self._smoothing)

    def _loss_of(self, logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
        targets = torch.from_numpy(batch.targets).to(logits.device)
        if self.multi:
            weights = None if self._weights is None else self._weights.to(logits.device)
            targets = targets * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        return cross_entropy(logits, targets, self._weights, smoothing)

    def evaluate(self, network: Network, examples: Sequence[TextExample], batches: Batches) -> Evaluation:
        mean = MeanLoss()
        chosen: list[tuple[str, ...]] = [()] * len(examples)
        for batch in batches():
            logits = network.sequence_logits(batch).float()
            mean.add(self._loss_of(logits, batch, 0.0), batch.weight)
            picked = (logits.sigmoid() >= THRESHOLD).cpu().numpy() if self.multi else logits.argmax(-1).cpu().numpy()
            for item, row in zip(batch.items, picked, strict=True):
                numbers = np.flatnonzero(row) if self.multi else [row]
                chosen[item.example] = tuple(self.labels[number] for number in numbers)
        true = [example.labels for example in examples]
        if self.multi:
            figures = multi_label_figures(true, chosen)
            confused: tuple[Confusion, ...] = ()
        else:
            figures = single_label_figures([row[0] for row in true], [row[0] for row in chosen])
            confused = most_confused((row[0], guess[0]) for row, guess in zip(true, chosen, strict=True))
        metrics = {
            "loss": mean.value,
            "accuracy": figures.accuracy,
            "f1_micro": figures.f1_micro,
            "f1_macro": figures.f1_macro,
            "f1_weighted": figures.f1_weighted,
        }
        return Evaluation(metrics, figures.by_label, confused)


def beginnings(texts: Sequence[str], tokenizer: TextTokenizer, max_length: int) -> TokenSequences:
    """Token ids of texts, special tokens around them, of longer ones the beginning."""
    from secbatch.models.windows import CHARACTERS_PER_TOKEN

    sequences = tokenizer.encode([text[: max_length * CHARACTERS_PER_TOKEN] for text in texts])
    if not (sequences.lengths > max_length).any():
        return sequences
    keep = max_length - len(tokenizer.after)
    rows = (sequences[number] for number in range(len(sequences)))
    return TokenSequences.of(
        [row if len(row) <= max_length else np.concatenate([row[:keep], tokenizer.after]) for row in rows]
    )


def most_confused(pairs: Any) -> tuple[Confusion, ...]:
    """The most frequent (true, predicted) that differ."""
    counts = Counter((true, predicted) for true, predicted in pairs if true != predicted)
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN_PAIRS]
    return tuple((true, predicted, count) for (true, predicted), count in ranked)
