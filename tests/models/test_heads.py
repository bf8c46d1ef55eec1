"""Heads of fine-tuned models against the models' own forward."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import SENTENCES, make_fine_tuned, resolved
from torch import nn

from secbatch.errors import ModelError
from secbatch.models import heads
from secbatch.models.configuration import load_config
from secbatch.models.device import choose
from secbatch.models.heads import SequenceHead, TokenHead
from secbatch.models.load import load_model
from secbatch.models.model_kinds import check_head
from secbatch.models.requests import Request
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.models.transfer import Made

CPU = choose("cpu", "float32")
BF16 = replace(CPU, dtype="bfloat16")


def sequences_of(tokenizer: Any) -> TokenSequences:
    rows = [tokenizer.encode([text])[0][:60] for text in [*SENTENCES, *SENTENCES[:2], "a"]]
    return TokenSequences.of(sorted(rows, key=len, reverse=True))


def own_logits(model: Any, sequences: TokenSequences) -> torch.Tensor:
    """One text at a time through the stock forward."""
    rows = []
    for row in range(len(sequences)):
        output = model(input_ids=torch.from_numpy(sequences[row].astype(np.int64))[None])
        if "start_logits" in output:
            rows.append(torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1))
        else:
            rows.append(output.logits if output.logits.dim() == 2 else output.logits[0])
    return torch.cat(rows)


def assert_equal(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.allclose(got, wanted, atol=1e-6 * max(float(wanted.abs().max()), 10.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling", "packed"),
    [
        ("roberta", "first", True),
        ("bert", "first", True),
        ("distilbert", "first", True),
        ("electra", "first", True),
        ("modernbert", "first", True),
        ("modernbert-mean", "mean", True),
        ("mpnet", "first", True),
        ("deberta", "first", True),
        ("albert", None, False),
        ("bart", None, False),
        ("llama", None, False),
    ],
)
def test_a_sequence_head_gives_the_models_own_logits(
    tmp_path: Path, kind: str, pooling: str | None, packed: bool
) -> None:
    kind, _, pooled = kind.partition("-")
    changes = {"classifier_pooling": "mean"} if pooled else {}
    model = resolved(make_fine_tuned(tmp_path, kind, "SequenceClassification", num_labels=5, **changes))
    tokenizer = load_tokenizer(model)
    sequences = sequences_of(tokenizer)
    with torch.inference_mode():
        stock = load_model(model, "sequence-classification", CPU).model
        stock.config.pad_token_id = tokenizer.pad_id
        wanted = own_logits(stock, sequences)
        head = SequenceHead(load_model(model, "sequence-classification", CPU), tokenizer, CPU)
        got = head.logits_of(head.states(sequences, head.wanted(sequences)), sequences)
    assert (head._pooling, head.packed, head.labels) == (pooling, packed, 5)
    assert_equal(got, wanted)
    assert wanted.std() > 0.5  # a comparison of logits that are all alike would prove nothing


def test_texts_too_short_for_an_architecture_are_classified(tmp_path: Path) -> None:
    """Of fewer than five tokens Funnel's pooling leaves nothing: they are padded, and the others are not."""
    model = resolved(make_fine_tuned(tmp_path, "funnel", "SequenceClassification", num_labels=3))
    tokenizer = load_tokenizer(model)
    texts = sequences_of(tokenizer)
    long = texts.slice(0, int((texts.lengths > 4).sum()))
    short = TokenSequences.of([[*tokenizer.before, 50, *tokenizer.after]])
    sequences = TokenSequences.joined([long, short])
    with torch.inference_mode():
        stock = load_model(model, "sequence-classification", CPU).model
        head = SequenceHead(load_model(model, "sequence-classification", CPU), tokenizer, CPU)
        got = head.logits_of(head.states(sequences, head.wanted(sequences)), sequences)
        filled = F.pad(torch.from_numpy(short.ids.astype(np.int64))[None], (0, 8 - len(short.ids)))
        assert_equal(got[:-1], own_logits(stock, long))
        assert_equal(got[-1:], stock(input_ids=filled, attention_mask=(filled > 0).long()).logits)


def test_without_a_padding_token_a_decoders_head_looks_at_the_last_token_whatever_it_is(tmp_path: Path) -> None:
    folder = make_fine_tuned(tmp_path, "llama", "SequenceClassification", num_labels=3)
    for name, changes in (("config.json", {"pad_token_id": None}), ("tokenizer_config.json", {"pad_token": None})):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    model = resolved(folder)
    tokenizer = load_tokenizer(model)
    assert tokenizer.hf.pad_token_id is None and tokenizer.pad_id == tokenizer.after[-1]
    sequences = sequences_of(tokenizer)
    with torch.inference_mode():
        wanted = own_logits(load_model(model, "sequence-classification", CPU).model, sequences)
        head = SequenceHead(load_model(model, "sequence-classification", CPU), tokenizer, CPU)
        assert_equal(head.logits_of(head.states(sequences, head.wanted(sequences)), sequences), wanted)


@pytest.mark.parametrize("own", [None, 5])
def test_texts_are_not_padded_with_what_is_no_padding_to_the_model(tmp_path: Path, own: int | None) -> None:
    """Small logits: what another token's state makes of them is less than the trial allows."""
    model = resolved(make_fine_tuned(tmp_path, "llama", "SequenceClassification", num_labels=3))
    tokenizer = load_tokenizer(model)
    sequences = sequences_of(tokenizer)
    with torch.inference_mode():
        loaded = load_model(model, "sequence-classification", CPU)
        loaded.model.score.weight *= 1e-6
        loaded.model.config.pad_token_id = tokenizer.pad_id
        wanted = own_logits(loaded.model, sequences)
        loaded.model.config.pad_token_id = own
        head = SequenceHead(loaded, tokenizer, CPU)
        got = head.logits_of(head.states(sequences, head.wanted(sequences)), sequences)
    assert_equal(got * 1e6, wanted * 1e6)
    assert wanted.std() > 0.5e-6


@pytest.mark.parametrize(
    "kind", ["roberta", "bert", "electra", "distilbert", "modernbert", "mpnet", "deberta", "llama"]
)
@pytest.mark.parametrize("head", ["TokenClassification", "QuestionAnswering"])
def test_a_token_head_gives_the_models_own_logits(tmp_path: Path, kind: str, head: str) -> None:
    labels = {} if head == "QuestionAnswering" else {"num_labels": 7}
    model = resolved(make_fine_tuned(tmp_path, kind, head, **labels))
    tokenizer = load_tokenizer(model)
    sequences = sequences_of(tokenizer)
    at = np.arange(1, len(sequences.ids), 2)
    purpose = "question-answering" if head == "QuestionAnswering" else "token-classification"
    with torch.inference_mode():
        wanted = own_logits(load_model(model, purpose, CPU).model, sequences)
        tokens = TokenHead(load_model(model, purpose, CPU), tokenizer, CPU)
        assert_equal(tokens.logits_of(tokens.states(sequences, at)), wanted[at])
        assert_equal(tokens.logits_of(tokens.states(sequences, None)), wanted)
    assert tokens.hidden is not None and tokens.labels == labels.get("num_labels", 2)
    assert wanted.std() > 0.5


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert"])
def test_results_are_the_same_bits_in_any_batch(tmp_path: Path, kind: str) -> None:
    model = resolved(make_fine_tuned(tmp_path, kind, "SequenceClassification", num_labels=3))
    tokenizer = load_tokenizer(model)
    sequences = sequences_of(tokenizer)
    with torch.inference_mode():
        head = SequenceHead(load_model(model, "sequence-classification", CPU), tokenizer, CPU)
        assert head.batch_free
        together = head.logits_of(head.states(sequences, head.wanted(sequences)), sequences)
        for row in range(len(sequences)):
            one = sequences.select(np.array([row]))
            assert torch.equal(head.logits_of(head.states(one, head.wanted(one)), one)[0], together[row])


def test_in_bfloat16_the_head_stands_alone_too(tmp_path: Path) -> None:
    for kind, pooling in (("roberta", "first"), ("bert", "first"), ("modernbert", "mean")):
        changes = {"classifier_pooling": "mean"} if kind == "modernbert" else {}
        folder = make_fine_tuned(tmp_path / kind, kind, "SequenceClassification", num_labels=4, **changes)
        model = resolved(folder)
        head = SequenceHead(load_model(model, "sequence-classification", BF16), load_tokenizer(model), BF16)
        assert head._pooling == pooling


def test_a_head_that_wants_more_than_states_goes_through_the_models_own_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resolved(make_fine_tuned(tmp_path, "roberta", "TokenClassification", num_labels=3))
    tokenizer = load_tokenizer(model)
    sequences = sequences_of(tokenizer)

    def refuse(self: object, states: torch.Tensor) -> Any:
        raise RuntimeError("the head wants its text")

    monkeypatch.setattr(heads.HeadOnStates, "__call__", refuse)
    with torch.inference_mode():
        head = TokenHead(load_model(model, "token-classification", CPU), tokenizer, CPU)
        assert head.hidden is None and not head.batch_free
        wanted = own_logits(load_model(model, "token-classification", CPU).model, sequences)
        got = head.logits_of(head.states(sequences, np.array([3, 5, 40])))
    assert torch.allclose(got, wanted[[3, 5, 40]], atol=1e-5)


def test_a_layer_that_cannot_be_fused_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = resolved(make_fine_tuned(tmp_path, "roberta", "SequenceClassification", num_labels=3))

    class Broken(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such layer")

    monkeypatch.setattr("secbatch.models.head_on_states.LaidOut", Broken)
    loaded = load_model(model, "sequence-classification", CPU)
    head = SequenceHead(loaded, load_tokenizer(model), CPU)
    assert head.hidden is not None and not head.batch_free
    assert isinstance(loaded.model.classifier.out_proj, nn.Linear)


def test_a_model_without_the_head_is_refused_with_what_to_do(tiny: Callable[[str], ResolvedModel]) -> None:
    with pytest.raises(ModelError, match=r"has no trained classification head.*`labels` and a `template` with <mask>"):
        load_model(tiny("roberta"), "sequence-classification", CPU)
    with pytest.raises(ModelError, match=r"has no trained token-classification head.*fine-tuned to tag tokens"):
        load_model(tiny("distilbert"), "token-classification", CPU)
    with pytest.raises(ModelError, match=r"has no trained question-answering head"):
        load_model(tiny("bert"), "question-answering", CPU)
    with pytest.raises(ModelError, match="is a blenderbot model and cannot serve as a tagger of tokens"):
        load_model(tiny("blenderbot"), "token-classification", CPU)


def test_states_and_a_head_of_one_model_share_a_forward(tmp_path: Path) -> None:
    model = resolved(make_fine_tuned(tmp_path, "bert", "SequenceClassification", num_labels=3))
    encoder = SharedEncoder(model, CPU)
    encoder.need_states()
    encoder.need_head("sequence-classification")
    encoder.load()
    head = encoder.sequence_head
    assert encoder._hidden is head.hidden
    sequences = encoder.tokenizer.encode(SENTENCES[:3])
    logits, states = np.zeros((3, 3), np.float32), np.zeros((3, 64), np.float32)

    def classify(rows: np.ndarray, part: TokenSequences, found: torch.Tensor) -> Iterator[Made]:
        yield Made(logits, rows, head.logits_of(found, part))

    def embed(rows: np.ndarray, part: TokenSequences, found: torch.Tensor) -> Iterator[Made]:
        yield Made(states, rows, found)

    reports = encoder.run(
        [
            Request(sequences, head.wanted, classify, head="sequence-classification"),
            Request(sequences, lambda part: part.offsets[:-1], embed),
        ]
    )
    assert [report.tokens for report in reports] == [len(sequences.ids), 0]
    with torch.inference_mode():
        stock = load_model(model, "sequence-classification", CPU).model
        order = np.argsort(-sequences.lengths, kind="stable")
        assert torch.allclose(torch.from_numpy(logits[order]), own_logits(stock, sequences.select(order)), atol=1e-5)
        first = [
            stock.base_model(input_ids=torch.from_numpy(sequences[row].astype(np.int64))[None])[0][0, 0]
            for row in range(3)
        ]
    assert torch.allclose(torch.from_numpy(states), torch.stack(first), atol=1e-5)


def test_a_head_of_another_purpose_is_refused_although_its_weights_fit(tmp_path: Path) -> None:
    model = resolved(make_fine_tuned(tmp_path, "modernbert", "TokenClassification", num_labels=3))
    config = load_config(model)
    check_head(model, config, "token-classification")
    with pytest.raises(ModelError, match=r"classification head \(it is a ModernBertForTokenClassification\)"):
        check_head(model, config, "sequence-classification")
    config.architectures = ["SomethingElse"]
    check_head(model, config, "sequence-classification")
