"""A model's generation defaults under a job's wishes."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from torch_threads import one_thread  # noqa: F401
from transformers import BlenderbotConfig, GenerationConfig, LlamaConfig, T5Config

from secbatch.errors import JobError, ModelError
from secbatch.models.generation_settings import (
    DEFAULT_NEW_TOKENS,
    GenerationSettings,
    position_limit,
    read_generation_config,
    settings_for,
)
from secbatch.task_specs import Generation


def settle(
    positions: int | None = 128, encoder_decoder: bool = True, model: dict[str, Any] | None = None, **job: Any
) -> GenerationSettings:
    tokens = {"decoder_start_token_id": 1, "eos_token_id": 2}
    config = GenerationConfig(**tokens | (model or {}))
    return settings_for(config, Generation.model_validate(job), positions, encoder_decoder, "tiny")


def test_without_any_limit_an_answer_has_128_new_tokens() -> None:
    settings = settle()
    assert settings.max_new_tokens == DEFAULT_NEW_TOKENS == settings.new_token_limit(1) == 128
    # a decoder-only model with few positions keeps half of them for the question
    assert settle(64, False).max_new_tokens == 32
    assert dict(settle().overrides) == {"max_new_tokens": 128}


def test_the_model_s_limit_counts_prompt_and_answer() -> None:
    settings = settle(model={"max_length": 60})
    assert (settings.max_new_tokens, settings.max_length, settings.new_token_limit(1)) == (None, 60, 59)
    assert settle(40, False, {"max_length": 4096}).new_token_limit(30) == 10
    assert settle(128, True, {"max_length": 4096}).new_token_limit(1) == 128


def test_the_job_overrules_the_model() -> None:
    model = {"max_length": 60, "min_length": 20, "num_beams": 10, "length_penalty": 0.65}
    own, changed = settle(model=model), settle(model=model, max_new_tokens=30, num_beams=2, min_new_tokens=0)
    assert (own.num_beams, own.min_length, own.length_penalty, own.new_token_limit(1)) == (10, 20, 0.65, 59)
    assert (changed.num_beams, changed.min_length, changed.min_new_tokens) == (2, 0, 0)
    assert changed.new_token_limit(1) == 30
    assert dict(changed.overrides) == {"max_new_tokens": 30, "min_new_tokens": 0, "num_beams": 2}


def test_rules_that_only_transformers_knows_are_found() -> None:
    assert settle().stock == ()
    assert settle(model={"typical_p": 1.0, "bad_words_ids": None}).stock == ()
    assert settle(model={"typical_p": 0.9, "bad_words_ids": [[5, 6]]}).stock == ("typical_p", "bad_words_ids")
    # a forced token would win over a forbidden one, a suppressed one would not
    assert settle(model={"forced_eos_token_id": 5, "bad_words_ids": [[5]]}).stock == ("bad_words_ids",)


def test_forbidden_words_of_one_token_are_suppressed_tokens() -> None:
    settings = settle(model={"suppress_tokens": [4], "bad_words_ids": [[5], [2]], "forced_eos_token_id": 2})
    assert (settings.stock, settings.suppress_tokens) == ((), (4, 5))  # the end token is never forbidden


def test_contradictions_are_refused() -> None:
    with pytest.raises(JobError, match="max_new_tokens is 129, but tiny has only 128 positions"):
        settle(max_new_tokens=129)
    with pytest.raises(JobError, match="positions for prompt and answer together"):
        settle(128, False, max_new_tokens=128)
    with pytest.raises(JobError, match="top_p has no effect without"):
        settle(top_p=0.9)
    assert settle(model={"do_sample": True}, top_p=0.9).top_p == 0.9
    with pytest.raises(ModelError, match="names no decoder_start_token_id"):
        settle(model={"decoder_start_token_id": None})


def test_values_of_the_model_that_are_none_are_refused() -> None:
    for values in (
        {"temperature": "x"},
        {"num_beams": "many"},
        {"top_k": [1]},
        {"bad_words_ids": [5]},
        {"bad_words_ids": [[]]},
        {"forced_bos_token_id": [[1]]},
        {"max_length": [1]},
        {"min_length": 10**30},
        {"suppress_tokens": [5, -(10**30)]},
    ):
        with pytest.raises(ModelError, match="tiny: its generation settings cannot be used"):
            settle(model=values)
    with pytest.raises(ModelError, match="ask for 1,000,000 beams"):
        settle(model={"num_beams": 10**6})
    with pytest.raises(ModelError, match="ask for 0 beams"):
        settle(model={"num_beams": 0})
    for name in ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"):  # transformers counts up to it
        with pytest.raises(ModelError, match=f"ask for {name} 1,000,000,000"):
            settle(model={name: 10**9})
        assert getattr(settle(model={name: 10_000}), name) == 10_000
    assert settle(model={"max_new_tokens": 6.0}).overrides == (("max_new_tokens", 6),)
    assert isinstance(settle(model={"max_new_tokens": 6.5}).max_new_tokens, int)


def test_positions_of_architectures() -> None:
    assert position_limit(BlenderbotConfig(max_position_embeddings=128)) == 128
    assert position_limit(LlamaConfig(max_position_embeddings=4096)) == 4096
    assert position_limit(T5Config()) is None


def test_the_generation_config_is_read_from_its_file_or_the_model_s(tmp_path: Path) -> None:
    config = BlenderbotConfig()
    assert read_generation_config(tmp_path, config).eos_token_id == config.eos_token_id
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"num_beams": 7, "eos_token_id": 2}))
    assert read_generation_config(tmp_path, config).num_beams == 7
    for broken in ("{", "[]", "[" * 100_000, '{"watermarking_config": 3}'):
        file.write_text(broken)
        with pytest.raises(ModelError, match=r"generation_config\.json cannot be read"):
            read_generation_config(tmp_path, config)


def test_a_temperature_without_sampling_is_read_in_silence(tmp_path: Path) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    values = {"temperature": 0.6, "top_p": 0.9, "typical_p": 0.8, "do_sample": False}  # it is said once of each set
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    try:
        assert read_generation_config(tmp_path, LlamaConfig()).temperature == 0.6
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert said == []
