"""Learning rates of layers, and their course."""

from pathlib import Path

import pytest
import torch
from tiny_models import make_fine_tuned
from transformers import AutoModelForSequenceClassification, BartConfig, BartForConditionalGeneration

from secbatch.finetune_job import Hyperparameters
from secbatch.finetuning.optimizer import build_optimizer, rate_factor


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


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_the_rate_rises_and_follows_its_schedule(schedule: str, middle: float) -> None:
    course = [rate_factor(step, 110, 1 / 11, schedule) for step in range(110)]
    assert course[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert course[10] == 1.0 and course[60] == pytest.approx(middle) and min(course) > 0
    assert rate_factor(0, 5, 0.0, schedule) == 1.0
