"""Batches of dialogues: tokens, grouped by length, about the same work in each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secbatch.training.chat_tokenizer import BOS, PAD
from secbatch.training.dialogue import Dialogue, DialogueSampler, conversation

if TYPE_CHECKING:
    import torch

POOL = 1024  # dialogues drawn and sorted at a time

Example = tuple[list[int], list[int], tuple[int, int]]  # source ids, target ids, topic


class Topics:
    """Numbers for terms and intents, given out in the order they turn up."""

    def __init__(self) -> None:
        self._terms: dict[str, int] = {}
        self._intents: dict[str, int] = {}

    def number(self, topic: tuple[str, str]) -> tuple[int, int]:
        """The numbers of a (term, intent)."""
        term, intent = topic
        return (
            self._terms.setdefault(term, len(self._terms)),
            self._intents.setdefault(intent, len(self._intents)),
        )


@dataclass(frozen=True)
class Batch:
    """int64 tensors: ``source`` and ``source_mask`` [B, S], ``decoder_input`` and ``labels`` [B, T]
    (-100 where padded), ``topics`` [B, 2]: the numbers of the term and of the intent asked about."""

    source: torch.Tensor
    source_mask: torch.Tensor
    decoder_input: torch.Tensor
    labels: torch.Tensor
    topics: torch.Tensor

    @property
    def tokens(self) -> int:
        """Tokens that are no padding, source and target."""
        return int(self.source_mask.sum()) + int((self.labels >= 0).sum())


def encode(tokenizer: Any, dialogues: list[Dialogue], positions: int, topics: Topics) -> list[Example]:
    """The dialogues as examples; ids end with the end token and are at most ``positions`` long."""
    sources = tokenizer([conversation(d.turns) for d in dialogues], add_special_tokens=True)["input_ids"]
    targets = tokenizer([d.answer for d in dialogues], add_special_tokens=True)["input_ids"]
    numbers = [topics.number(d.topic) for d in dialogues]
    return [(s[-positions:], t[:positions], n) for s, t, n in zip(sources, targets, numbers, strict=True)]


def pad_batch(pairs: list[Example]) -> Batch:
    """The examples as one batch, padded on the right; the decoder reads the target shifted by one."""
    import torch

    longest = max(len(s) for s, _, _ in pairs), max(len(t) for _, t, _ in pairs)
    source = torch.full((len(pairs), longest[0]), PAD, dtype=torch.int64)
    labels = torch.full((len(pairs), longest[1]), -100, dtype=torch.int64)
    decoder_input = torch.full((len(pairs), longest[1]), PAD, dtype=torch.int64)
    mask = torch.zeros_like(source)
    for row, (s, t, _) in enumerate(pairs):
        source[row, : len(s)] = torch.tensor(s)
        mask[row, : len(s)] = 1
        labels[row, : len(t)] = torch.tensor(t)
        decoder_input[row, : len(t)] = torch.tensor([BOS, *t[:-1]])
    return Batch(source, mask, decoder_input, labels, torch.tensor([number for _, _, number in pairs]))


def batches(
    sampler: DialogueSampler, tokenizer: Any, budget: int, positions: int, seed: int, topics: Topics
) -> Iterator[Batch]:
    """Batches without end: dialogues of like length together, cut where target plus a third of source tokens
    (padding included) reach ``budget``; a source token costs about a third of a target token."""
    chance = random.Random(seed)
    while True:
        pairs = encode(tokenizer, sampler.draw(POOL), positions, topics)
        pairs.sort(key=lambda pair: (len(pair[1]) // 6, len(pair[0])))
        groups: list[list[Example]] = [[]]
        longest = 0
        for source, target, number in pairs:
            longest = max(longest, len(target) + len(source) // 3)
            if groups[-1] and longest * (len(groups[-1]) + 1) > budget:
                groups.append([])
                longest = len(target) + len(source) // 3
            groups[-1].append((source, target, number))
        chance.shuffle(groups)
        for group in groups:
            yield pad_batch(group)
