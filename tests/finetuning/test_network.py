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


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_what_is_dropped(head: str, tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embeddings, behind each residual branch and in the head, from the step's seed; what is left makes up."""
    model = getattr(transformers, CLASSES[head]).from_pretrained(tiny("bert").folder, hidden_dropout_prob=0.25)
    network, drop, x = PackedNetwork(model.train(), "cpu"), PackedNetwork._drop, torch.ones(200, 100)
    drawn = []
    for seed in (1, 2, 1):
        network.begin_step(seed)
        drawn.append(network._drop(x))
        assert float((drawn[-1] == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
        assert float(drawn[-1].max()) == pytest.approx(1 / 0.75)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    places: list[str] = []
    monkeypatch.setattr(PackedNetwork, "_drop", lambda self, x: (places.append("body"), drop(self, x))[1])
    model.dropout.register_forward_hook(lambda *_: places.append("head"))
    if head == "sequence":
        network.sequence_logits(batch())
    else:
        network.token_logits(batch(), None)
    assert places == ["body"] * (1 + 2 * model.config.num_hidden_layers) + ["head"]
    network.model.eval()
    assert network._drop(x) is x


@pytest.mark.parametrize("training", [True, False])
def test_it_is_tried_without_dropout_and_left_as_it_was(
    training: bool, tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformers.AutoModelForMaskedLM.from_pretrained(tiny("bert").folder).train(training)
    assert isinstance(build_network(model, "cpu", 0, batch(), False), PackedNetwork)
    assert model.training is training
    attend = PackedNetwork._attend
    monkeypatch.setattr(PackedNetwork, "_attend", lambda self, layer, x, groups: attend(self, layer, x, groups) * 1.1)
    assert isinstance(build_network(model, "cpu", 0, batch(), False), PaddedNetwork)
    assert model.training is training


def test_other_architectures_are_padded(tiny: Callable[[str], ResolvedModel]) -> None:
    model = transformers.AutoModelForMaskedLM.from_pretrained(tiny("modernbert").folder)
    assert isinstance(build_network(model, "cpu", 0, batch(), False), PaddedNetwork)
