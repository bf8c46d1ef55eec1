"""The command that trains the chat model: what it lacks is one sentence, and its checkpoints can be gone on with."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration, GenerationConfig

from secbatch.training import chat
from secbatch.training.chat_model import POSITIONS
from secbatch.training.dialogue_corpus import Knowledge

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def small_model(vocabulary_size: int) -> Any:
    config = BlenderbotConfig(
        vocab_size=vocabulary_size, max_position_embeddings=POSITIONS, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, **TOKENS,
    )  # fmt: skip
    model = BlenderbotForConditionalGeneration(config)
    model.generation_config = GenerationConfig(max_new_tokens=4, **TOKENS)
    return model


def test_what_is_missing_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--corpus", str(tmp_path), "--output", str(tmp_path / "out")]
    assert chat.main(wanted) == 1
    assert chat.main([*wanted, "--resume", str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(
        f"{tmp_path} holds no attack_descriptions.parquet, of which the chat model's answers are made"
    )
    assert f"{tmp_path} holds no training.json" in second and not (tmp_path / "out").exists()


def test_a_checkpoint_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "build_model", small_model)
    monkeypatch.setattr(chat, "read_knowledge", lambda corpus: Knowledge([], ["Foo Bar"], ["a text"]))
    monkeypatch.setattr(chat, "train", partial(chat.train, checkpoint_minutes=0.0))
    monkeypatch.setattr(chat, "vocabulary_texts", lambda entries, knowledge, seed: ["What is phishing?"])
    wanted = ["--corpus", str(tmp_path), "--minutes", "0.02", "--questions", "4", "--threads", "1"]
    checkpoints = tmp_path / "checkpoints"
    assert chat.main([*wanted, "--output", str(tmp_path / "a"), "--checkpoints", str(checkpoints)]) == 0
    first = checkpoints / "checkpoint-01"
    (before,) = json.loads((first / "training.json").read_text())["runs"]
    assert before["steps"] == 1 and before["encoder_minutes"] == pytest.approx(0.002)
    assert chat.main([*wanted, "--output", str(tmp_path / "b"), "--resume", str(first)]) == 0
    runs = json.loads((tmp_path / "b" / "training.json").read_text())["runs"]
    assert runs[0] == before and len(runs) == 2 and runs[1]["encoder_minutes"] == 0.0
