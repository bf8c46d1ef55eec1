"""The chat model that ships: loads with plain transformers, offline, and answers what its card promises."""

import json

import pytest

import secbatch.builtin
from secbatch.training.chat import load
from secbatch.training.chat_evaluation import talk
from secbatch.training.chat_tokenizer import SPECIAL_TOKENS
from secbatch.training.dialogue import IDENTIFIER, PROMPT_PREFIX, UNKNOWN_TERM

FOLDER = next(iter(secbatch.builtin.__path__)) + "/chat"


@pytest.fixture(scope="module")
def chat():
    from pathlib import Path

    return load(Path(FOLDER))


def test_files_are_blenderbot_in_float16_and_small(chat):
    from pathlib import Path

    from safetensors import safe_open

    folder = Path(FOLDER)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BlenderbotForConditionalGeneration"]
    assert (folder / "model.safetensors").stat().st_size <= 30_000_000
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118
    _, tokenizer = chat
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]


@pytest.mark.parametrize("prefix", [PROMPT_PREFIX, ""])
def test_ddos_and_the_follow_up(chat, prefix):
    model, tokenizer = chat
    _, what, _, prevent = talk(model, tokenizer, ["What is DDoS", "How can we prevent it?"], prefix)
    assert "floods" in what and "traffic" in what
    assert "rate limiting" in prevent


def test_a_follow_up_depends_on_the_turn_before(chat):
    model, tokenizer = chat
    answers = {
        talk(model, tokenizer, [question, "How can we prevent it?"])[-1]
        for question in ("What is ransomware?", "What is phishing?", "What is SQL injection?")
    }
    assert len(answers) == 3


def test_identifiers_and_invented_names_are_not_explained(chat):
    model, tokenizer = chat
    assert talk(model, tokenizer, ["What is CVE-2021-44228?"])[-1] == IDENTIFIER
    assert talk(model, tokenizer, ["What is photosynthesis?"])[-1] == UNKNOWN_TERM
