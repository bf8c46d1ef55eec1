"""Token classification: spans of a text by BIO tags of its tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from secbatch.evaluation.spans import span_figures
from secbatch.finetuning.classify import most_confused
from secbatch.finetuning.items import IGNORED, Batch, Item
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import Batches, Evaluation, MeanLoss, Objective, cross_entropy
from secbatch.labelled.examples import TokenExample
from secbatch.models.overlapping import WindowedTexts
from secbatch.models.tokenizer import TextTokenizer
from secbatch.tasks.label_scheme import LabelScheme
from secbatch.tasks.ner_spans import grouped, starts_of_words, trimmed

OVERLAP = 4  # windows over a long text share 1/OVERLAP of their tokens
NO_SPAN = "no span"


class Ner(Objective):
    auto_class = "AutoModelForTokenClassification"

    def __init__(self, labels: Sequence[str], subwords: str, label_smoothing: float) -> None:
        """`subwords`: "all" tokens are learned, or the "first" of each word.

        Where the vocabulary makes several words of one in the file (CVE-2021-44228 is five), the first of each of them:
        the task reads a label from it.
        """
        self.labels = tuple(labels)
        self.tags = ("O", *(f"{kind}-{label}" for label in self.labels for kind in "BI"))
        self.weights: torch.Tensor | None = None  # [tags]
        self._subwords, self._smoothing = subwords, label_smoothing
        self._number = {tag: number for number, tag in enumerate(self.tags)}
        self._tokenizer: TextTokenizer  # of the items

    def config(self) -> dict[str, Any]:
        return {"id2label": dict(enumerate(self.tags)), "label2id": self._number}

    def items(self, examples: Sequence[TokenExample], tokenizer: TextTokenizer, max_length: int) -> list[Item]:
        """`places` of an item: [k, 2], its tokens that are read from it, and their numbers in the example."""
        self._tokenizer = tokenizer
        texts = [example.text for example in examples]
        sequences, offsets = tokenizer.encode_with_offsets(texts)
        read = self._starts_of_words(_whole(texts, tokenizer), texts) if self._subwords == "first" else None
        room = max_length - len(tokenizer.before) - len(tokenizer.after)
        items = []
        for number, example in enumerate(examples):
            span = slice(sequences.offsets[number], sequences.offsets[number + 1])
            words = words_of_tokens(example, offsets[span])
            later = np.diff(words, prepend=-2) == 0  # tokens of a word behind its first
            if read is not None:
                later &= ~read[span]
            tags = self._token_tags(example, words, later, offsets[span])
            ids = sequences.ids[span]
            for start, stop, first, last in windows(len(ids), room):
                here = slice(start, stop)
                body = np.concatenate([tokenizer.before, ids[here], tokenizer.after])
                # A token that several windows hold is learned in the one where it has most around it.
                learned = tags[here].copy()
                learned[: first - start] = IGNORED
                learned[last - start :] = IGNORED
                at = np.flatnonzero(learned != IGNORED)
                own = np.arange(first, last)
                places = np.stack([own - start + len(tokenizer.before), own], axis=1)
                items.append(Item(body, number, learned[at], at + len(tokenizer.before), places))
        return items

    def _token_tags(
        self, example: TokenExample, words: np.ndarray, later: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        """[t] the number of each token's tag; IGNORED for tokens that are not learned."""
        tags = np.zeros(len(offsets), np.int64)
        starts, ends = offsets[:, 0], offsets[:, 1]
        begins = np.array([-1, *(start for start, _ in example.words)])[words + 1]  # of each token's word
        for span in example.spans:
            of_word = (begins >= span.start) & (begins < span.end)
            inside = np.flatnonzero(of_word | ((starts < span.end) & (ends > span.start)))
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
        return replace(batch, targets=targets, weight=weight)

    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        return self._loss_of(network.token_logits(batch, batch.at).float(), batch, self._smoothing)

    def _loss_of(self, logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
        if not len(batch.targets):
            return logits.sum()  # windows of blanks: zero, with a gradient
        targets = torch.from_numpy(batch.targets).to(logits.device)
        return cross_entropy(logits, targets, self.weights, smoothing)

    def evaluate(self, network: Network, examples: Sequence[TokenExample], batches: Batches) -> Evaluation:
        """Spans are those that the task `ner` finds: a word has the label of its first token."""
        mean = MeanLoss()
        texts = [example.text for example in examples]
        found = _whole(texts, self._tokenizer)
        first = np.cumsum(found.counts) - found.counts  # of each text, among all tokens
        labels, scores = np.zeros(len(found.ids), np.int32), np.zeros(len(found.ids), np.float32)
        for batch in batches():
            logits = network.token_logits(batch, None).float()
            mean.add(self._loss_of(logits[torch.from_numpy(batch.at).to(logits.device)], batch, 0.0), batch.weight)
            best = logits.softmax(-1).max(-1)
            chosen, sure = best.indices.cpu().numpy(), best.values.cpu().numpy()
            for item, start in zip(batch.items, batch.sequences.offsets[:-1], strict=True):
                tokens = first[item.example] + item.places[:, 1]
                labels[tokens], scores[tokens] = chosen[start + item.places[:, 0]], sure[start + item.places[:, 0]]
        predicted = self._spans(texts, found, labels, scores)
        true = [[(span.start, span.end, span.label) for span in example.spans] for example in examples]
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

    def _spans(
        self, texts: list[str], found: WindowedTexts, labels: np.ndarray, scores: np.ndarray
    ) -> list[list[tuple[int, int, str]]]:
        """Of each text (start, end, label)."""
        units = np.flatnonzero(self._starts_of_words(found, texts))
        scheme = LabelScheme.of(self.tags, "that is trained")
        spans = trimmed(grouped(labels[units], scores[units], units, found, scheme), texts)
        flat = [
            (int(start), int(end), scheme.types[kind])
            for start, end, kind in zip(spans.starts, spans.ends, spans.types, strict=True)
        ]
        ends = np.cumsum(spans.counts)
        return [flat[end - count : end] for end, count in zip(ends, spans.counts, strict=True)]

    def _starts_of_words(self, found: WindowedTexts, texts: list[str]) -> np.ndarray:
        """[N] bool: tokens from which the task `ner` reads the label of a word."""
        tokenizer = self._tokenizer
        lengths = tokenizer.written_lengths() if tokenizer.marks_inner_pieces else None
        return starts_of_words(found, texts, lengths, tokenizer.hf.unk_token_id)


def _whole(texts: list[str], tokenizer: TextTokenizer) -> WindowedTexts:
    """The tokens of texts, each text one window."""
    found = tokenizer.located(texts)
    ids = found.sequences.ids
    every = np.arange(len(ids))
    counts = found.sequences.lengths
    return WindowedTexts(ids, found.starts, found.ends, counts, found.sequences, every, np.arange(len(texts)))


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
    """[t] the word in which each token begins; -1 for one that is in none.

    A token that is nothing but a space, as byte-level vocabularies have them, is the first of the word behind it.
    """
    if not example.words:
        return np.full(len(offsets), -1, np.int64)
    words = np.array(example.words, np.int64)
    blank = np.array([not example.text[start:end].strip() for start, end in offsets], bool)
    starts = np.where(blank, offsets[:, 1], offsets[:, 0])
    place = np.searchsorted(words[:, 1], starts, side="right")
    inside = place < len(words)
    place = np.where(inside, place, 0)
    # A token without characters of its own (a byte in the midst of one) goes with the word it lies in.
    within = np.where(blank, starts >= words[place, 0], offsets[:, 1] > words[place, 0])
    return np.where(inside & within, place, -1)


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
