"""Token classification: spans of a text by BIO tags of its tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.evaluation.spans import span_figures
from secbatch.finetuning.classify import most_confused
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import Batches, Evaluation, MeanLoss, Objective
from secbatch.labelled.examples import TokenExample
from secbatch.labelled.tags import spans_of
from secbatch.models.tokenizer import TextTokenizer

OVERLAP = 4  # windows over a long text share 1/OVERLAP of their tokens
IGNORED = -100
NO_SPAN = "no span"


class Ner(Objective):
    auto_class = "AutoModelForTokenClassification"

    def __init__(self, labels: Sequence[str], subwords: str, label_smoothing: float) -> None:
        """`subwords`: "all", or "first": only the first token of each word is learned and looked at."""
        self.labels = tuple(labels)
        self.tags = ("O", *(f"{kind}-{label}" for label in self.labels for kind in "BI"))
        self.weights: torch.Tensor | None = None  # [tags]
        self._subwords, self._smoothing = subwords, label_smoothing
        self._number = {tag: number for number, tag in enumerate(self.tags)}

    def config(self) -> dict[str, Any]:
        return {"id2label": dict(enumerate(self.tags)), "label2id": self._number}

    def items(self, examples: Sequence[TokenExample], tokenizer: TextTokenizer, max_length: int) -> list[Item]:
        """`places` of an item: [m] the word that the token is the first of, -1 for other tokens of a word."""
        sequences, offsets = tokenizer.encode_with_offsets([example.text for example in examples])
        room = max_length - len(tokenizer.before) - len(tokenizer.after)
        items = []
        for number, example in enumerate(examples):
            span = slice(sequences.offsets[number], sequences.offsets[number + 1])
            words = words_of_tokens(example, offsets[span])
            later = np.diff(words, prepend=-2) == 0  # tokens of a word behind its first
            tags = self._token_tags(example, words, later, offsets[span])
            firsts = np.where(later, -1, words)
            ids = sequences.ids[span]
            for start, stop, first, last in windows(len(ids), room):
                here = slice(start, stop)
                body = np.concatenate([tokenizer.before, ids[here], tokenizer.after])
                # A token that several windows hold is learned in the one where it has most around it.
                learned = tags[here].copy()
                learned[: first - start] = IGNORED
                learned[last - start :] = IGNORED
                at = np.flatnonzero(learned != IGNORED)
                items.append(Item(body, number, learned[at], at + len(tokenizer.before), firsts[here][at]))
        return items

    def _token_tags(
        self, example: TokenExample, words: np.ndarray, later: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        """[t] the number of each token's tag; IGNORED for tokens that are not learned."""
        tags = np.zeros(len(offsets), np.int64)
        starts, ends = offsets[:, 0], offsets[:, 1]
        for span in example.spans:
            inside = np.flatnonzero((starts < span.end) & (ends > span.start))
            tags[inside] = self._number[f"I-{span.label}"]
            tags[inside[:1]] = self._number[f"B-{span.label}"]
        tags[words < 0] = IGNORED
        if self._subwords == "first":
            tags[later] = IGNORED
        return tags

    def batch(self, items: Sequence[Item], random: np.random.Generator | None) -> Batch:
        batch = Batch.of(items)
        targets = np.concatenate([item.targets for item in batch.items])
        weight = float(len(targets)) if self.weights is None else float(self.weights.numpy()[targets].sum())
        return Batch(batch.sequences, batch.items, batch.types, batch.at, targets, weight)

    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        return self._loss_of(network.token_logits(batch, batch.at).float(), batch, self._smoothing)

    def _loss_of(self, logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
        if not len(batch.targets):
            return logits.sum()  # windows of blanks: zero, with a gradient
        targets = torch.from_numpy(batch.targets).to(logits.device)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)

    def evaluate(
        self, network: Network, examples: Sequence[TokenExample], items: Sequence[Item], batches: Batches
    ) -> Evaluation:
        """A word has the tag of its first token."""
        mean = MeanLoss()
        tags = [["O"] * len(example.words) for example in examples]
        for _, batch in batches():
            logits = network.token_logits(batch, batch.at).float()
            mean.add(self._loss_of(logits, batch, 0.0), batch.weight)
            best = logits.argmax(-1).cpu().numpy()
            at = 0
            for item in batch.items:
                row = tags[item.example]
                for place in np.flatnonzero(item.places >= 0):
                    row[item.places[place]] = self.tags[best[at + place]]
                at += len(item.targets)
        true, predicted = [], []
        for example, row in zip(examples, tags, strict=True):
            true.append([(span.start, span.end, span.label) for span in example.spans])
            found, _ = spans_of(row)
            predicted.append([(example.words[s.first][0], example.words[s.last - 1][1], s.label) for s in found])
        figures = span_figures(true, predicted)
        pairs = (pair for row, guess in zip(true, predicted, strict=True) for pair in _pairs(row, guess))
        metrics = {
            "loss": mean.value,
            "f1": figures.f1,
            "precision": figures.precision,
            "recall": figures.recall,
            "f1_macro": figures.f1_macro,
        }
        return Evaluation(metrics, figures.by_label, most_confused(pairs))


def _pairs(true: list[tuple[int, int, str]], predicted: list[tuple[int, int, str]]) -> list[tuple[str, str]]:
    """Labels that stand for each other: of spans that overlap, else for no span."""
    pairs = []
    for start, end, label in true:
        over = [other for s, e, other in predicted if s < end and e > start]
        pairs += [(label, other) for other in over] or [(label, NO_SPAN)]
    for start, end, label in predicted:
        if not any(s < end and e > start for s, e, _ in true):
            pairs.append((NO_SPAN, label))
    return pairs


def words_of_tokens(example: TokenExample, offsets: np.ndarray) -> np.ndarray:
    """[t] the word in which each token begins; -1 for one that is in none."""
    if not example.words:
        return np.full(len(offsets), -1, np.int64)
    words = np.array(example.words, np.int64)
    place = np.searchsorted(words[:, 1], offsets[:, 0], side="right")
    inside = place < len(words)
    place = np.where(inside, place, 0)
    # A token without characters of its own (a byte in the midst of one) goes with the word it lies in.
    return np.where(inside & (offsets[:, 1] > words[place, 0]), place, -1)


def windows(tokens: int, room: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, first, last) of windows of at most `room` tokens that overlap.

    Tokens from `first` up to, not including, `last` are the window's own: each token is one window's own, the one
    where it is furthest from an end that is cut.
    """
    if tokens <= room:
        return [(0, tokens, 0, tokens)]
    step = max(1, room - room // OVERLAP)
    starts = [*range(0, tokens - room, step), tokens - room]
    result = []
    for place, start in enumerate(starts):
        first = start if place == 0 else (start + starts[place - 1] + room) // 2
        last = tokens if place == len(starts) - 1 else (starts[place + 1] + start + room) // 2
        result.append((start, start + room, first, last))
    return result
