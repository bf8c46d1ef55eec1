"""How good a masked LM is at the question it is asked: one whole word hidden in one sentence.

For each sentence one content word (alphabetic, four letters or more) is replaced by one mask. It is a hit at k
when the word, case aside, is among the first k entries. Words that are no single entry count as misses, so
models with different vocabularies are compared on one list.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secbatch.training.masking import is_content_word

if TYPE_CHECKING:
    from transformers import BertForMaskedLM, BertTokenizer

_WORD = re.compile(r"(?<![\w\-./\\'@:])[A-Za-z]{4,}(?![\w\-/\\'@:]|\.\w)")
EVALUATION_BATCH = 32
TOP_K = 10


@dataclass(frozen=True)
class Probe:
    """A sentence with one word taken out."""

    before: str
    word: str
    after: str


@dataclass(frozen=True)
class ProbeResult:
    """Hit rates over ``count`` probes, and the share of their words that are one entry of the vocabulary."""

    count: int
    hit_at_1: float
    hit_at_10: float
    coverage: float


def make_probe(sentence: str) -> Probe | None:
    """Hide one content word, chosen by a hash of the sentence; None where there is none."""
    words = [match for match in _WORD.finditer(sentence) if is_content_word(match.group())]
    if not words:
        return None
    digest = hashlib.sha256(f"0:{sentence}".encode()).digest()
    match = words[int.from_bytes(digest[:8], "big") % len(words)]
    return Probe(sentence[: match.start()], match.group(), sentence[match.end() :])


def make_probes(sentences: Iterable[str]) -> list[Probe]:
    """Probes of the sentences that have a content word."""
    return [probe for sentence in sentences if (probe := make_probe(sentence)) is not None]


def predict(
    model: BertForMaskedLM, tokenizer: BertTokenizer, sentences: Sequence[tuple[str, str]], top_k: int = TOP_K
) -> list[list[str]]:
    """The ``top_k`` entries, best first, for the mask between each pair of texts."""
    import torch

    texts = [f"{before}{tokenizer.mask_token}{after}" for before, after in sentences]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    answers: list[list[str]] = [[] for _ in texts]
    training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), EVALUATION_BATCH):
            chosen = order[start : start + EVALUATION_BATCH]
            batch = tokenizer(
                [texts[index] for index in chosen],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=256,
            )
            hidden = model.bert(**batch).last_hidden_state
            rows, columns = (batch["input_ids"] == tokenizer.mask_token_id).nonzero(as_tuple=True)
            top = model.cls(hidden[rows, columns]).topk(top_k, dim=-1).indices
            for row, ids in zip(rows.tolist(), top.tolist(), strict=True):
                answers[chosen[row]] = answers[chosen[row]] or list(tokenizer.convert_ids_to_tokens(ids))
    model.train(training)
    return answers


def evaluate(model: BertForMaskedLM, tokenizer: BertTokenizer, probes: Sequence[Probe]) -> ProbeResult:
    """Hit rates of a model on probes."""
    vocabulary = tokenizer.get_vocab()
    answers = predict(model, tokenizer, [(probe.before, probe.after) for probe in probes])
    first = tenth = covered = 0
    for probe, words in zip(probes, answers, strict=True):
        word = probe.word.lower()
        first += words[:1] == [word]
        tenth += word in words[:10]
        covered += word in vocabulary
    count = max(1, len(probes))
    return ProbeResult(len(probes), first / count, tenth / count, covered / count)


def evaluate_constant(words: Sequence[str], probes: Sequence[Probe]) -> ProbeResult:
    """Hit rates of answering the same words, best first, to every probe."""
    count = max(1, len(probes))
    first = sum(probe.word.lower() in words[:1] for probe in probes)
    tenth = sum(probe.word.lower() in words[:10] for probe in probes)
    return ProbeResult(len(probes), first / count, tenth / count, 1.0)
