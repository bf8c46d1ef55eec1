"""Sequence-to-sequence: a text and the text that it becomes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.finetuning.classify import beginnings
from secbatch.finetuning.items import IGNORED, Batch, Item
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import Batches, Evaluation, MeanLoss, Objective
from secbatch.labelled.examples import PairExample
from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import TextTokenizer


class Pairs(Objective):
    auto_class = "AutoModelForSeq2SeqLM"
    new_head = False

    def __init__(self, label_smoothing: float, pad_id: int) -> None:
        self._smoothing, self._pad_id = label_smoothing, pad_id

    def items(self, examples: Sequence[PairExample], tokenizer: TextTokenizer, max_length: int) -> list[Item]:
        """`targets`: [t] the target's token ids, its end token among them."""
        sources = beginnings([example.source for example in examples], tokenizer, max_length)
        targets = beginnings([example.target for example in examples], tokenizer, max_length)
        return [
            Item(sources[number], number, targets[number].astype(np.int64), extra=len(targets[number]))
            for number in range(len(examples))
        ]

    def batch(self, items: Sequence[Item], random: np.random.Generator | None) -> Batch:
        batch = Batch.of(items)
        targets = TokenSequences.of([item.targets for item in batch.items]).padded(IGNORED)[0]
        return replace(batch, targets=targets, weight=float((targets != IGNORED).sum()))

    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        return self._loss(network, batch, self._smoothing)

    def _loss(self, network: Network, batch: Batch, smoothing: float) -> torch.Tensor:
        device = network.device
        ids, mask = (torch.from_numpy(array).to(device) for array in batch.sequences.padded(self._pad_id))
        labels = torch.from_numpy(batch.targets).to(device)
        logits = network.model(input_ids=ids, attention_mask=mask, labels=labels).logits.float()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)

    def evaluate(self, network: Network, examples: Sequence[PairExample], batches: Batches) -> Evaluation:
        mean = MeanLoss()
        for batch in batches():
            mean.add(self._loss(network, batch, 0.0), batch.weight)
        return Evaluation({"loss": mean.value, "perplexity": mean.perplexity})
