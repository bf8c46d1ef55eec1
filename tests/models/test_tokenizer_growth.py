"""Tokenizers that make texts ever longer, or give up, are a sentence when they are loaded; real ones are none."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import blenderbot_tokenizer, chat_tokenizer, make_llama_chat, resolved, unigram_tokenizer
from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from secbatch.errors import ModelError
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.models.tokenizer_growth import check_growth


def spec(kind: str, *steps: Any) -> dict[str, Any]:
    written = [json.loads(step.__getstate__()) for step in steps]
    name = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}[kind]
    return {kind: {"type": "Sequence", name: written}}


def charsmap(*texts: str) -> dict[str, Any]:
    table = (4).to_bytes(4, "little") + bytes(4) + b"".join(text.encode() + b"\0" for text in texts)
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}}


@pytest.mark.parametrize(
    "admitted",
    [
        {},
        spec(  # SeamlessM4T's, the longest of those that transformers makes
            "normalizer",
            normalizers.Replace(Regex(r"[\n\r\t]"), " "),
            normalizers.NFKC(),
            normalizers.Strip(False, True),
            normalizers.Replace(Regex(r" +▁"), "▁"),
            normalizers.Replace(Regex(r"^▁+$"), ""),
            normalizers.Replace(Regex(r" {2,}"), "▁"),
        ),
        spec("normalizer", normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")),
        spec("normalizer", normalizers.Replace(" ", "▁"), normalizers.Replace(Regex(r"\A▁"), "▁▁")),
        spec("normalizer", *[normalizers.Replace(Regex(f"[{letter}]"), "-") for letter in "abcdefghijklmnopqrstuvw"]),
        spec(
            "decoder", decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
        ),
        charsmap("ﷺ" * 18, "a"),
    ],
)
def test_what_real_tokenizers_do_is_admitted(admitted: dict[str, Any]) -> None:
    check_growth(admitted)
    for hf in (blenderbot_tokenizer(), chat_tokenizer(), unigram_tokenizer(["<unk>", "</s>"])):
        check_growth(json.loads(hf.backend_tokenizer.to_str()))


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (spec("normalizer", *[normalizers.Replace("a", "aa")] * 8), "normalizer can make a text more than 128 times"),
        (spec("decoder", *[decoders.Replace("a", "aa")] * 8), "decoder can make a text more than 128 times"),
        (spec("normalizer", normalizers.Replace("", "x" * 128)), "more than 128 times"),
        (spec("normalizer", *[normalizers.Replace(Regex("x*"), "a")] * 8), "more than 128 times"),
        (spec("normalizer", *[normalizers.Replace(Regex("(?=a)"), "a")] * 8), "more than 128 times"),
        (spec("normalizer", *[normalizers.ByteLevel()] * 4), "more than 128 times"),
        (spec("pre_tokenizer", *[pre_tokenizers.ByteLevel()] * 4), "pre_tokenizer can make a text more than 128 times"),
        (charsmap("a", "x" * 129), "more than 128 times"),
        (spec("normalizer", normalizers.Prepend("x" * 1025)), "puts before a text, or takes from it, more than 1,024"),
        (spec("decoder", decoders.Strip("a", 2**40, 0)), "puts before a text, or takes from it, more than 1,024"),
        (spec("pre_tokenizer", *[pre_tokenizers.Digits()] * 257), "pre_tokenizer has 257 steps, and 256 are admitted"),
    ],
)
def test_what_has_no_bound_is_refused(refused: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_growth(refused)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (spec("normalizer", *[normalizers.Replace("a", "aa")] * 40), "its normalizer can make a text more than"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "chunk size must be non-zero"),  # a panic
    ],
)
def test_the_sentence_names_the_model(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = make_llama_chat(tmp_path)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=rf"model tiny: its tokenizer in .* cannot be loaded \({sentence}"):
        load_tokenizer(resolved(folder))
