"""What a job says of a model reaches its layers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_jobs import job, pairs_file
from tiny_models import make_bart, make_blenderbot, make_marian, make_t5
from transformers import AutoModelForSeq2SeqLM

from secbatch.errors import ModelError
from secbatch.finetuning.build import _set_dropout, build
from secbatch.finetuning.dataset import load_dataset
from secbatch.models.device import choose
from secbatch.models.resolve import resolve


@pytest.mark.parametrize("make", [make_bart, make_marian, make_blenderbot])
def test_dropout_reaches_layers_that_keep_it_as_a_number(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(make(tmp_path)).train()
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10]])

    def logits() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model(input_ids=tokens, labels=tokens).logits
        return found

    _set_dropout(model, 0.0)
    assert torch.equal(logits(), logits())
    _set_dropout(model, 0.5)
    assert not torch.equal(logits(), logits())
    assert model.config.dropout == 0.5


def test_the_configuration_tells_the_dropout_of_t5(tmp_path: Path) -> None:
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(make_t5(tmp_path))
    _set_dropout(model, 0.3)
    assert model.config.dropout_rate == 0.3
    attention = model.encoder.block[0].layer[0].SelfAttention
    assert attention.dropout == 0.1  # weights of attention keep the base's own


def test_a_decoder_that_is_told_its_start_for_generation_alone_learns_behind_it(tmp_path: Path) -> None:
    base, pairs = make_t5(tmp_path / "t5"), pairs_file(tmp_path / "p.csv")
    wanted = job("seq2seq", base, pairs, tmp_path / "out")
    told = json.loads((base / "config.json").read_text())
    assert told.pop("decoder_start_token_id") == 0
    (base / "config.json").write_text(json.dumps(told))
    data = load_dataset(wanted)
    assert build(wanted, data, resolve(str(base)), choose("cpu", "float32")).model.config.decoder_start_token_id == 0
    (base / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=r"neither config\.json nor generation_config\.json names a decoder_start"):
        build(wanted, data, resolve(str(base)), choose("cpu", "float32"))
