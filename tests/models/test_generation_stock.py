"""What transformers' own `generate` refuses is refused in a sentence before any row; what it takes is taken."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_generation import VOCABULARY, alone, answers, blenderbot, llama, rows, sharpened, t5
from tiny_models import BLENDERBOT, make_blenderbot, resolved
from torch_threads import one_thread  # noqa: F401
from transformers import AutoModelForCausalLM, RwkvConfig

from secbatch.errors import JobError, ModelError
from secbatch.models.device import choose
from secbatch.models.generation_settings import GenerationSettings, position_limit, settings_for
from secbatch.models.generation_stock import check_settings
from secbatch.task_specs import Generation
from secbatch.tasks.text_generator import TextGenerator


def settings_of(model: Any, **job: Any) -> GenerationSettings:
    positions, encoder_decoder = position_limit(model.config), model.config.is_encoder_decoder
    return settings_for(model.generation_config, Generation(**job), positions, encoder_decoder, "tiny")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no temperature": ({"do_sample": True, "temperature": 0.0}, r"`temperature` \(=0.0\) has to be"),
    "a penalty of nothing": ({"repetition_penalty": 0.0}, "`penalty` has to be a strictly positive float"),
    "a share above all": ({"do_sample": True, "min_p": 2.0}, "`min_p` has to be a float in"),
    "words that are none": ({"bad_words_ids": [[VOCABULARY + 7]]}, "the following tokens were being biased"),
    "an end that is no word": ({"forced_eos_token_id": VOCABULARY + 7}, "out of bounds"),
    "words that must come": ({"num_beams": 2, "force_words_ids": [[5]]}, "Constrained Beam Search requires"),
    "a search of another kind": ({"penalty_alpha": 0.6, "top_k": 4}, "Contrastive Search requires"),
}


@pytest.mark.parametrize("build", [blenderbot, llama, t5])
@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_transformers_refuses_are_one_sentence(build: Any, case: str) -> None:
    generation, why = REFUSED[case]
    model = build(max_length=20, **generation)
    with pytest.raises(ModelError, match=f"model tiny: transformers does not generate .* as its settings say .*{why}"):
        check_settings(model, settings_of(model), "tiny")


def test_beams_that_transformers_has_not_for_a_model_are_refused() -> None:
    config = RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, context_length=64)
    model = sharpened(AutoModelForCausalLM.from_config(config), {}, pad_token_id=0)
    check_settings(model, settings_of(model), "tiny")
    groups = blenderbot(num_beams=4, num_beam_groups=2, diversity_penalty=1.0)
    with pytest.raises(JobError, match=r"num_beams is 4, .* \(Group Beam Search requires .* set it to 1"):
        check_settings(groups, settings_of(groups), "tiny")
    with pytest.raises(JobError, match=r"num_beams is 3, .* not for model tiny \(RwkvForCausalLM.*set it to 1"):
        check_settings(model, settings_of(model, num_beams=3), "tiny")


def test_a_model_s_settings_are_looked_at_when_it_is_loaded(tmp_path: Path) -> None:
    folder = make_blenderbot(tmp_path)
    own = {"decoder_start_token_id": 1, "eos_token_id": 2, "repetition_penalty": -1.0}
    (folder / "generation_config.json").write_text(json.dumps(BLENDERBOT | own))
    made = TextGenerator(Generation(max_new_tokens=4), resolved(folder), choose("cpu", "float32"))
    with pytest.raises(ModelError, match=r"model tiny: .*`penalty` has to be a strictly positive float, but is -1\.0"):
        made.load()


TAKEN: dict[str, dict[str, Any]] = {
    "padding that is no word": {"pad_token_id": -1},
    "padding beyond all words": {"pad_token_id": VOCABULARY + 7},
    "several answers": {"num_beams": 4, "num_return_sequences": 3},
    "several answers, one by one": {"num_beams": 4, "num_return_sequences": 3, "typical_p": 0.9},
    "answers with all about them": {"return_dict_in_generate": True, "typical_p": 0.9},
    "forbidden words that are none": {"suppress_tokens": [-1], "begin_suppress_tokens": [-1]},
}


@pytest.mark.parametrize("build", [blenderbot, llama, t5])
@pytest.mark.parametrize("case", TAKEN)
def test_settings_that_transformers_takes_are_taken(build: Any, case: str) -> None:
    model = build(max_length=60)
    # as if the last word were the best one everywhere: a place that -1 would stand for
    model.get_output_embeddings().weight.data[-1] *= 2
    model.generation_config.update(**TAKEN[case])
    check_settings(model, settings_of(model), "tiny")
    asked = rows(model, 8)
    got = answers(model, Generation(max_new_tokens=8), asked)
    model.generation_config.return_dict_in_generate = False
    assert got == [alone(model, row.tokens, max_new_tokens=8) for row in asked]
