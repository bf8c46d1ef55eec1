"""Figures name the number format that each model was computed in, not the one that was asked for."""

from pathlib import Path

import pytest
import torch
from tiny_models import SENTENCES, bert_tokenizer, make_bert, make_fine_tuned
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, FNetConfig

from secbatch.comparison.classification import Classification
from secbatch.comparison.evaluation import Objective, evaluate
from secbatch.comparison.hidden_words import HiddenWords
from secbatch.comparison.model_diff import diff_models
from secbatch.comparison.sample import Sample
from secbatch.labelled.files import LabelledFiles
from secbatch.models.device import choose

HALF = choose("cpu", "bfloat16")
LABELS = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}, "num_labels": 2}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """By objective: a model that runs in bfloat16, and an FNet, whose Fourier transform does not."""
    tokenizer = bert_tokenizer()
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 80}
    config = FNetConfig(vocab_size=len(tokenizer), tpu_short_seq_length=80, **shape, **LABELS)
    torch.manual_seed(0)
    for name, made in (("classify", AutoModelForSequenceClassification), ("masked-lm", AutoModelForMaskedLM)):
        made.from_config(config).save_pretrained(tmp_path / f"fnet-{name}")
        tokenizer.save_pretrained(tmp_path / f"fnet-{name}")
    make_fine_tuned(tmp_path / "bert-classify", "bert", "SequenceClassification", **LABELS)
    make_bert(tmp_path / "bert-masked-lm")
    kinds = ("classify", "masked-lm")
    return {kind: (str(tmp_path / f"bert-{kind}"), str(tmp_path / f"fnet-{kind}")) for kind in kinds}


@pytest.mark.parametrize("kind", ["classify", "masked-lm"])
def test_a_model_that_fell_back_to_float32_is_said_to_have(
    kind: str, models: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f'"{text}",good\n' for text in SENTENCES))
    files = LabelledFiles(str(path))
    objective: Objective = Classification(files, "text", "label") if kind == "classify" else HiddenWords(files, "text")
    told = evaluate(objective, models[kind], ("one", "two"), HALF, 10, 0).as_json()
    assert [one["precision"] for one in told["models"]] == ["bfloat16", "float32"]
    assert told["precision"] == "bfloat16, float32"
    alone = evaluate(objective, models[kind][1:], ("two",), HALF, 10, 0).as_json()
    assert alone["precision"] == "float32"


def test_so_is_one_that_is_compared(models: dict[str, tuple[str, str]]) -> None:
    sample = Sample(list(SENTENCES), [f"row {number}" for number in range(len(SENTENCES))], len(SENTENCES), ())
    told = diff_models(models["classify"], ("one", "two"), "classify", sample, "in.csv", HALF).as_json()
    assert [one["precision"] for one in told["models"]] == ["bfloat16", "float32"]
