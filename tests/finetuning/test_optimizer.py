"""Learning rates of layers, and their course."""

from pathlib import Path

import pytest
import torch
from tiny_models import make_fine_tuned
from transformers import AutoModelForSequenceClassification, BartConfig, BartForConditionalGeneration

from secbatch.finetune_job import Hyperparameters, Lora
from secbatch.finetuning.optimizer import build_optimizer, head_rate, learning_rate, rate_factor, set_rates


def rates(model: torch.nn.Module, new_head: bool = False) -> dict[str, float]:
    named = dict(model.named_parameters())
    optimizer = build_optimizer(model, named, Hyperparameters(layer_decay=0.5), new_head, rate=1.0)
    of = {id(parameter): group["base"] for group in optimizer.param_groups for parameter in group["params"]}
    return {name: of[id(parameter)] for name, parameter in named.items()}


def test_lower_layers_learn_more_slowly(tmp_path: Path) -> None:
    base = make_fine_tuned(tmp_path, "bert", "SequenceClassification")
    found = rates(AutoModelForSequenceClassification.from_pretrained(base), new_head=True)
    assert found["bert.encoder.layer.1.output.dense.weight"] == 1.0
    assert found["bert.encoder.layer.0.output.dense.weight"] == 0.5
    assert found["bert.embeddings.word_embeddings.weight"] == found["bert.embeddings.LayerNorm.bias"] == 0.25
    assert found["bert.pooler.dense.weight"] == found["classifier.weight"] == 1.0  # of a new head, at least the top's


def test_the_top_of_a_decoder_is_a_top_however_deep_the_encoder() -> None:
    config = BartConfig(
        vocab_size=20, d_model=8, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=8,
    )  # fmt: skip
    found = rates(BartForConditionalGeneration(config))
    assert found["model.decoder.layers.0.fc1.weight"] == found["model.encoder.layers.2.fc1.weight"] == 1.0
    assert found["model.encoder.layers.0.fc1.weight"] == 0.25
    assert found["model.encoder.embed_positions.weight"] == 0.125
    assert found["model.decoder.embed_positions.weight"] == 0.5


def test_matrices_decay_and_a_new_head_has_its_own_rate(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        make_fine_tuned(tmp_path, "bert", "SequenceClassification")
    )
    named = dict(model.named_parameters())
    for new_head, asked, of_head in [(True, None, 5e-4), (True, 3e-4, 3e-4), (False, None, 1e-4), (False, 3e-4, 3e-4)]:
        wanted = Hyperparameters(weight_decay=0.2, head_learning_rate=asked)
        optimizer = build_optimizer(model, named, wanted, new_head, rate=1e-4)
        group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        groups = {name: group_of[id(parameter)] for name, parameter in named.items()}
        assert {name for name, group in groups.items() if group["weight_decay"] == 0.0} == {
            name for name in named if name.endswith(".bias") or "LayerNorm" in name
        }
        assert {group["weight_decay"] for group in groups.values()} == {0.0, 0.2}
        assert groups["classifier.weight"]["base"] == groups["bert.pooler.dense.weight"]["base"] == of_head
        assert groups["bert.encoder.layer.1.output.dense.weight"]["base"] == 1e-4
    set_rates(optimizer, 0.25)
    assert all(group["lr"] == 0.25 * group["base"] for group in optimizer.param_groups)


def test_rates_that_no_job_names() -> None:
    small, large = (torch.nn.Linear(8000, width, bias=False, device="meta") for width in (4999, 5000))
    both = torch.nn.ModuleList([small, torch.nn.Linear(8000, 1, bias=False, device="meta")])
    found = [learning_rate(Hyperparameters(), model) for model in (small, both, large)]
    assert found == [2e-4, 5e-5, 5e-5]  # 40 million are no longer few
    assert learning_rate(Hyperparameters(lora=Lora()), large) == 5e-4
    assert learning_rate(Hyperparameters(lora=Lora(), learning_rate=1e-5), large) == 1e-5
    heads = [head_rate(Hyperparameters(), rate) for rate in (5e-5, 5e-4, 2e-3)]
    assert heads == pytest.approx([2.5e-4, 1e-3, 2e-3])  # five times as much, up to 1e-3, and no less than the rest


@pytest.mark.parametrize(
    ("schedule", "quarter", "middle"), [("linear", 0.75, 0.5), ("cosine", 0.853553, 0.5), ("constant", 1.0, 1.0)]
)
def test_the_rate_rises_and_follows_its_schedule(schedule: str, quarter: float, middle: float) -> None:
    course = [rate_factor(step, 110, 1 / 11, schedule) for step in range(110)]
    assert course[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert course[10] == 1.0 and course[60] == pytest.approx(middle) and min(course) > 0
    assert course[35] == pytest.approx(quarter)
    assert rate_factor(0, 5, 0.0, schedule) == rate_factor(0, 5, 0.01, schedule) == 1.0
