"""The packed forward gives what the model's own gives, logits and gradients; others are padded."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers

from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.network import PackedNetwork, PaddedNetwork, build_network
from secbatch.models.resolved import ResolvedModel

CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "question": "AutoModelForQuestionAnswering",
    "masked": "AutoModelForMaskedLM",
}


def batch() -> Batch:
    random = np.random.default_rng(0)
    items = [Item(random.integers(5, 60, length).astype(np.int32), 0, at=np.array([1, 2])) for length in (5, 9, 9, 3)]
    return Batch.of(items)


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("base", ["bert", "roberta"])
def test_packed_equals_padded(base: str, head: str, tiny: Callable[[str], ResolvedModel]) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[head]).from_pretrained(tiny(base).folder).eval()
    sample = batch()
    assert sample.sequences.lengths.tolist() == [9, 9, 5, 3]
    packed, padded = PackedNetwork(model, "cpu"), PaddedNetwork(model, "cpu", 1)
    gradients = []
    for network in (packed, padded):
        model.zero_grad()
        logits = network.sequence_logits(sample) if head == "sequence" else network.token_logits(sample, sample.at)
        logits.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = gradients[1][name].abs().max()
        assert (gradient - gradients[1][name]).abs().max() <= 1e-3 * scale + 1e-6, name
    assert isinstance(build_network(model, "cpu", 1, sample, head == "sequence"), PackedNetwork)


def test_other_architectures_are_padded(tiny: Callable[[str], ResolvedModel]) -> None:
    model = transformers.AutoModelForMaskedLM.from_pretrained(tiny("modernbert").folder)
    assert isinstance(build_network(model, "cpu", 0, batch(), False), PaddedNetwork)
