"""The masked LM: loss, replicas, schedule, evaluation, and the whole command on a tiny base."""

import json
import math
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from training.bert_fixture import write_base
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, BertTokenizer

from secbatch.training import masked_lm
from secbatch.training.masked_lm_batches import MaskedBatch, encode_documents, mask_batch
from secbatch.training.masked_lm_evaluation import Probe, evaluate, evaluate_constant, make_probe, make_probes
from secbatch.training.masked_lm_model import masked_loss, save_model, warm_start
from secbatch.training.masked_lm_training import CheckpointError, TrainingSettings, learning_rate_factor, train
from secbatch.training.replicas import Replicas
from secbatch.training.vocabulary import build_tokenizer, edit_vocabulary

TEXTS = ["attackers use powershell to steal data.", "the tool has stolen files", "powershell from disk, the data"]


@pytest.fixture
def model_and_tokenizer(tmp_path: Path) -> tuple[BertForMaskedLM, BertTokenizer]:
    base = write_base(tmp_path / "base")
    tokenizer = BertTokenizer.from_pretrained(base)
    vocabulary = edit_vocabulary(tokenizer, Counter(powershell=9), 4, 5)
    counts = [1] * len(vocabulary.entries)
    return warm_start(base, vocabulary, counts), build_tokenizer(vocabulary.entries)


def batch_of(tokenizer: BertTokenizer, texts: list[str]) -> MaskedBatch:
    import numpy as np

    special = tuple(tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[MASK]", "[PAD]"]))
    sentences = [s for d in encode_documents(tokenizer, [[text] for text in texts]) for s in d]
    return mask_batch(sentences, special, np.random.default_rng(0))  # type: ignore[arg-type]


def tensors(batch: MaskedBatch) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in (batch.ids, batch.attention, batch.positions, batch.labels)]


def test_the_loss_is_that_of_transformers(model_and_tokenizer: tuple[BertForMaskedLM, BertTokenizer]) -> None:
    model, tokenizer = model_and_tokenizer
    ids, attention, positions, labels = tensors(batch_of(tokenizer, TEXTS))
    full = torch.full(ids.shape, -100).flatten()
    full[positions] = labels
    expected = model(input_ids=ids, attention_mask=attention, labels=full.view(ids.shape)).loss
    assert torch.allclose(masked_loss(model, ids, attention, positions, labels), expected, atol=1e-5)


def test_the_output_layer_is_the_embedding_and_the_bias_the_frequencies(tmp_path: Path) -> None:
    base = write_base(tmp_path)
    tokenizer = BertTokenizer.from_pretrained(base)
    vocabulary = edit_vocabulary(tokenizer, Counter(), 4, 0)
    counts = list(range(len(vocabulary.entries)))
    model = warm_start(base, vocabulary, counts)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    bias = model.cls.predictions.decoder.bias.detach()
    assert math.isclose(float(bias.exp().sum()), 1.0, rel_tol=1e-4)
    assert bias.argmax() == len(counts) - 1


def test_replicas_give_the_gradient_of_the_whole_batch(
    model_and_tokenizer: tuple[BertForMaskedLM, BertTokenizer],
) -> None:
    model, tokenizer = model_and_tokenizer
    pieces = [batch_of(tokenizer, [text]) for text in TEXTS]
    total = sum(len(piece.labels) for piece in pieces)

    def backward(replica: BertForMaskedLM, piece: MaskedBatch) -> float:
        loss = masked_loss(replica, *tensors(piece)) * (len(piece.labels) / total)
        loss.backward()
        return float(loss.detach())

    for piece in pieces:
        backward(model, piece)
    expected = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    Replicas(model, 2, backward).step(pieces)
    for name, gradient in expected.items():
        found = model.get_parameter(name).grad
        assert found is not None
        assert torch.allclose(found, gradient, atol=1e-6), name


def test_the_learning_rate_waits_rises_and_reaches_zero_at_the_end() -> None:
    assert learning_rate_factor(0.03, 0.04, 0.02) == 0
    assert learning_rate_factor(0.041, 0.04, 0.02) < learning_rate_factor(0.06, 0.04, 0.02)
    assert learning_rate_factor(0.06, 0.04, 0.02) > 0.95
    assert learning_rate_factor(1.0, 0.04, 0.02) == pytest.approx(0, abs=1e-9)


def test_training_lowers_the_loss_and_goes_on_from_its_checkpoint(
    model_and_tokenizer: tuple[BertForMaskedLM, BertTokenizer], tmp_path: Path
) -> None:
    model, tokenizer = model_and_tokenizer
    batch = batch_of(tokenizer, TEXTS)
    before = float(masked_loss(model, *tensors(batch)).detach())
    threads = torch.get_num_threads()
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    settings = TrainingSettings(minutes=0.02, head_only=0.1, body_rate=5e-3, head_rate=5e-3)
    endless = iter(lambda: batch, None)
    try:
        progress = train(model, endless, settings, checkpoint)
        assert float(masked_loss(model, *tensors(batch)).detach()) < before - 1
        again = train(model, endless, settings, checkpoint)
        with pytest.raises(CheckpointError, match="has another vocabulary, as the corpus was another; remove it"):
            train(model, endless, settings, checkpoint, "other words")
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
        with pytest.raises(CheckpointError, match="is none of this training"):
            train(model, endless, settings, checkpoint)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert progress.steps > 0
    assert (again.steps, again.tokens) == (progress.steps, progress.tokens)


def test_a_saved_model_loads_as_any_masked_lm(
    model_and_tokenizer: tuple[BertForMaskedLM, BertTokenizer], tmp_path: Path
) -> None:
    model, tokenizer = model_and_tokenizer
    save_model(model, tokenizer, tmp_path / "out")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.tokenize("PowerShell [MASK]") == ["powershell", "[MASK]"]
    encoded = again("attackers use [MASK]", return_tensors="pt")
    assert torch.allclose(loaded(**encoded).logits, model.eval()(**encoded).logits, atol=0.02)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]


def test_a_probe_hides_one_content_word_and_nothing_inside_a_path_or_a_hyphen() -> None:
    probe = make_probe("They with C:\\Windows\\system and re-use evil.example; malware.")
    assert probe == Probe("They with C:\\Windows\\system and re-use evil.example; ", "malware", ".")
    assert make_probe("It was with them.") is None
    sentences = [f"Sentence number {n} steals credentials quickly." for n in range(50)]
    assert make_probes(["It was with them.", *sentences]) == [make_probe(sentence) for sentence in sentences]


def test_hits_are_counted_case_aside_and_unknown_words_are_misses(
    model_and_tokenizer: tuple[BertForMaskedLM, BertTokenizer],
) -> None:
    model, tokenizer = model_and_tokenizer
    with torch.no_grad():
        model.cls.predictions.decoder.bias[tokenizer.get_vocab()["data"]] += 100
    probes = [Probe("attackers steal ", "Data", "."), Probe("the ", "Mimikatz", " has files")]
    result = evaluate(model, tokenizer, probes)
    assert (result.count, result.hit_at_1, result.hit_at_10, result.coverage) == (2, 0.5, 0.5, 0.5)
    assert evaluate_constant(["files", "data"], probes).hit_at_10 == 0.5


def test_the_command_writes_a_model_and_a_card_with_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 400
    texts = [
        f"[Tool](https://x.y) has stolen files from disk {n}. Attackers use powershell to steal data."
        for n in range(rows)
    ]
    table = pa.table({"stix_id": [f"malware--{n}" for n in range(rows)], "text": texts})
    pq.write_table(table, tmp_path / "attack_descriptions.parquet")
    base = write_base(tmp_path / "base")
    monkeypatch.setattr(masked_lm, "base_encoder_folder", lambda: base)
    threads = torch.get_num_threads()
    try:
        masked_lm.run(tmp_path, tmp_path / "out", TrainingSettings(minutes=0.01), None)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for part in (
        "It is not SecureBERT",
        "hit@10",
        "The MITRE Corporation",
        "attack_descriptions.parquet",
        "Apache-2.0",
    ):
        assert part in card
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 1_000


def test_the_model_is_there_before_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an hour is not lost with its figures; and the figures are of the half precision that is written."""
    texts = [f"Tool number {n} has stolen files from disk." for n in range(400)]
    pq.write_table(pa.table({"stix_id": texts, "text": texts}), tmp_path / "attack_descriptions.parquet")
    monkeypatch.setattr(masked_lm, "base_encoder_folder", lambda: write_base(tmp_path / "base"))
    measured: list[BertForMaskedLM] = []

    def failing(model: BertForMaskedLM, *_: object) -> None:
        measured.append(model)
        raise RuntimeError("no memory")

    monkeypatch.setattr(masked_lm, "evaluate", failing)
    threads = torch.get_num_threads()
    try:
        with pytest.raises(RuntimeError, match="no memory"):
            masked_lm.run(tmp_path, tmp_path / "out", TrainingSettings(minutes=0.005), None)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    weights = dict(measured[0].named_parameters())["bert.embeddings.word_embeddings.weight"].detach()
    assert weights.dtype is torch.float32 and torch.equal(weights, weights.half().float())
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").num_parameters() > 0
