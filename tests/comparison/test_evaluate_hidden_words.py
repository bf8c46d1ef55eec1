"""The masked-LM loss, against the model's own forward over one text at a time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import SENTENCES, make_bert, make_roberta
from transformers import AutoModelForMaskedLM, AutoTokenizer

from secbatch.comparison.evaluation import evaluate
from secbatch.comparison.hidden_words import HiddenText, HiddenWords, hide, mask
from secbatch.errors import InputError
from secbatch.labelled.files import LabelledFiles
from secbatch.models.device import choose
from secbatch.models.resolve import resolve
from secbatch.models.tokenizer_files import load_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(make_roberta(folder / "roberta")), str(make_bert(folder / "bert"))]


@pytest.fixture
def data(tmp_path: Path) -> LabelledFiles:
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + "".join(f'"{text}"\n' for text in [*SENTENCES, "...", "word " * 300]))
    return LabelledFiles(str(path))


def stock_losses(path: str, sentences: list[str]) -> tuple[list[float], int]:
    """(the loss of each hidden piece, how many words are hidden), one text at a time."""
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    losses: list[float] = []
    words = 0
    for sentence in sentences:
        hidden = hide(sentence, 3)
        words += len(hidden.words)
        text = sentence.replace("<mask>", tokenizer.mask_token)
        assert len(text) == len(sentence)
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        places = [
            number
            for number, (start, end) in enumerate(encoded.pop("offset_mapping")[0].tolist())
            if any(start < last and end > first for first, last in hidden.words)
        ]
        wanted = encoded["input_ids"][0, places].clone()
        encoded["input_ids"][0, places] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(**encoded).logits[0, places]
        losses += torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
    return losses, words


@pytest.mark.parametrize("masked", [False, True])
def test_perplexity_is_that_of_the_stock_model(models: list[str], tmp_path: Path, masked: bool) -> None:
    sentences = [f"The <mask> is gone. {text} <mask>" if masked else text for text in SENTENCES]
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + "".join(f'"{text}"\n' for text in sentences))
    objective = HiddenWords(LabelledFiles(str(path)), "text", seed=3)
    evaluation = evaluate(objective, models, ["a", "b"], choose("cpu", "float32"), 20, 0)
    for path_of, told in zip(models, evaluation.models, strict=True):
        losses, words = stock_losses(path_of, sentences)
        assert told.figures["loss"].value == pytest.approx(np.mean(losses), rel=1e-4)
        assert told.figures["word_perplexity"].value == pytest.approx(np.exp(np.sum(losses) / words), rel=1e-3)
        assert told.more == {"hidden_words": words, "hidden_pieces": len(losses)}
    assert any("compare word_perplexity" in notice for notice in evaluation.notices)


def test_long_texts_are_predicted_whole_and_empty_ones_left_out(models: list[str], data: LabelledFiles) -> None:
    objective = HiddenWords(data, "text")
    assert objective.rows == len(SENTENCES) + 1
    tokenizer = load_tokenizer(resolve(models[0]))
    masked = mask(objective._texts, tokenizer)
    assert masked.sequences.lengths.max() <= tokenizer.max_length
    assert (masked.owners == len(SENTENCES)).sum() > 4
    assert (masked.sequences.ids == tokenizer.mask_id).sum() == len(masked.targets) == masked.counts.sum()
    told = evaluate(objective, models[:1], ["a"], choose("cpu", "float32"), 0, 0)
    assert "1 text without a word left out" in " ".join(told.notices)
    assert told.models[0].more["hidden_words"] == sum(len(text.words) for text in objective._texts)


def test_a_tokenizer_that_was_written_anew_cuts_words_as_before(
    models: list[str], data: LabelledFiles, tmp_path: Path
) -> None:
    """As of an adapted model beside its base."""
    adapted = shutil.copytree(models[0], tmp_path / "adapted")
    with (adapted / "tokenizer.json").open("a") as file:
        file.write("\n")
    assert resolve(str(adapted)).tokenizer_hash != resolve(models[0]).tokenizer_hash
    told = evaluate(HiddenWords(data, "text"), [models[0], str(adapted)], ["a", "b"], choose("cpu", "float32"), 0, 0)
    assert not any("compare word_perplexity" in notice for notice in told.notices)


def test_the_same_words_are_hidden_every_time() -> None:
    assert hide(SENTENCES[0], 0) == hide(SENTENCES[0], 0)
    assert hide(SENTENCES[0], 0) != hide(SENTENCES[0], 1)
    assert hide("?!", 0) == HiddenText("?!", ())
    assert hide("<mask>!", 0) == HiddenText("<mask>!", ())
    assert len(hide("one", 0).words) == 1


def test_no_text_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text\n...\n")
    with pytest.raises(InputError, match="no text"):
        HiddenWords(LabelledFiles(str(path)), "text")
