"""Pairs of texts: framed and typed as the stock tokenizer does it, through every path as the stock forward has it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import SENTENCES, bert_tokenizer, make_fine_tuned, resolved, with_token_types
from tokenizers.processors import TemplateProcessing
from transformers import XLNetConfig

from secbatch.models.device import choose
from secbatch.models.heads import TokenHead, trial_pairs
from secbatch.models.load import load_model
from secbatch.models.pairs import PairFrame
from secbatch.models.requests import Request
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.tokenizer_files import load_tokenizer

CPU = choose("cpu", "float32")
KIND: Any = "question-answering"
QUESTIONS = ["What is DDoS?", "Phishing", "Who stole the cookies, and why?"]


@pytest.mark.parametrize(
    ("kind", "typed"),
    [
        ("bert", True),
        ("roberta", False),
        ("distilbert", False),
        ("electra", True),
        ("modernbert", False),
        ("albert", True),
        ("mpnet", False),
    ],
)
def test_pairs_are_the_stock_tokenizer_s_and_logits_the_stock_forward_s(tmp_path: Path, kind: str, typed: bool) -> None:
    folder = make_fine_tuned(tmp_path, kind, "QuestionAnswering")
    model = resolved(with_token_types(folder) if typed else folder)
    loaded, tokenizer = load_model(model, KIND, CPU), load_tokenizer(model)
    frame = PairFrame.of(tokenizer, loaded.config, KIND)
    assert (frame.types is not None) is typed
    ids, types, wanted = [], [], []
    for question, context in zip(QUESTIONS, SENTENCES, strict=False):
        first, second = (tokenizer.encode([text], special_tokens=False)[0][:25] for text in (question, context))
        pair = tokenizer.hf(
            question, context, truncation="only_second", max_length=len(first) + 25 + frame.special_tokens
        )
        ids.append(frame.ids(first, second))
        assert ids[-1].tolist() == pair["input_ids"]
        assert ids[-1][frame.null] == tokenizer.hf.cls_token_id
        inputs = {"input_ids": torch.tensor([pair["input_ids"]])}
        if typed:
            types.append(frame.types_of(len(first), len(second)))
            assert types[-1].tolist() == pair["token_type_ids"]
            inputs["token_type_ids"] = torch.tensor([pair["token_type_ids"]])
        with torch.inference_mode():
            output = loaded.model(**inputs)
        wanted.append(torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1))
    order = np.argsort([-len(one) for one in ids], kind="stable")
    sequences = TokenSequences.of(ids)
    if typed:
        sequences = TokenSequences(sequences.ids, sequences.offsets, np.concatenate(types))
    sequences = sequences.select(order)
    with torch.inference_mode():
        head = TokenHead(load_model(model, KIND, CPU), tokenizer, CPU, trial_pairs(loaded.model, frame))
        got = head.logits_of(head.states(sequences, None))
    assert torch.allclose(got, torch.cat([wanted[place] for place in order]), atol=1e-4, rtol=1e-4)
    if kind in ("bert", "roberta", "modernbert", "distilbert", "electra", "mpnet"):
        assert head.packed and head.hidden is not None  # the fast path, not a way round it
    if typed:  # and the types matter
        plain = TokenSequences(sequences.ids, sequences.offsets)
        with torch.inference_mode():
            assert not torch.allclose(head.logits_of(head.states(plain, None)), got, atol=1e-2)


def test_one_forward_for_pairs_that_two_requests_have_and_apart_where_types_differ(tmp_path: Path) -> None:
    model = resolved(with_token_types(make_fine_tuned(tmp_path, "bert", "QuestionAnswering")))
    encoder = SharedEncoder(model, CPU)
    encoder.need_head(KIND)
    encoder.load()
    ids = TokenSequences.of([np.array([2, 30, 3, 40, 41, 3], np.int32)])
    typed = TokenSequences(ids.ids, ids.offsets, np.array([0, 0, 0, 1, 1, 1], np.int32))
    seen: dict[str, list[torch.Tensor]] = {"one": [], "two": [], "plain": []}

    def request(sequences: TokenSequences, name: str) -> Request:
        def keep(rows: np.ndarray, part: TokenSequences, states: torch.Tensor) -> tuple[()]:
            seen[name].append(states.clone())
            return ()

        return Request(sequences, lambda part: None, keep, head=KIND)

    reports = encoder.run([request(typed, "one"), request(ids, "plain"), request(typed, "two")])
    assert [report.tokens for report in reports] == [12, 0, 0]
    assert torch.equal(seen["one"][0], seen["two"][0])
    assert not torch.allclose(seen["one"][0], seen["plain"][0], atol=1e-3)


def test_a_classification_token_at_the_end_stands_for_no_answer() -> None:
    hf = bert_tokenizer()
    hf.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    marks = [("[CLS]", hf.cls_token_id), ("[SEP]", hf.sep_token_id)]
    hf.backend_tokenizer.post_processor = TemplateProcessing(  # as XLNet's
        single="$A [SEP] [CLS]:2", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=marks
    )
    frame = PairFrame.of(TextTokenizer(hf, 64), XLNetConfig(), KIND)
    assert frame.null == -1 and frame.ids(np.array([50]), np.array([51]))[-1] == hf.cls_token_id
    assert frame.types is not None and frame.types_of(1, 2).tolist() == [0, 0, 1, 1, 1, 2]


def test_a_model_with_a_single_token_type_gets_none_from_a_tokenizer_with_two(tmp_path: Path) -> None:
    """RoBERTa's embeddings have one; beside them there are BERT's tokenizers."""
    model = resolved(with_token_types(make_fine_tuned(tmp_path, "bert", "QuestionAnswering")))
    config, tokenizer = load_model(model, KIND, CPU).config, load_tokenizer(model)
    assert PairFrame.of(tokenizer, config, KIND).types is not None
    config.type_vocab_size = 1
    assert PairFrame.of(tokenizer, config, KIND).types is None
