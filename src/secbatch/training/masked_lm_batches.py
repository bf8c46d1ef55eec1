"""Batches for masked-LM training: sequences drawn from weighted sources, bucketed by length, masked afresh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from secbatch.training.masking import EncodedSentence, choose_masked, entry_weights, word_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import BertTokenizer

MAXIMUM_SEQUENCE = 128
POOL_SEQUENCES = 4_096
SHARE_OF_RUNS = 0.2
LOWEST_RATE, HIGHEST_RATE = 0.10, 0.38


@dataclass(frozen=True)
class MaskedBatch:
    """``ids`` [B, S] int64 with masks in place; ``attention`` [B, S] int64; ``positions`` [M] int64, masked
    places in the flattened batch; ``labels`` [M] int64, what stood there."""

    ids: NDArray[np.int64]
    attention: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        return int(self.attention.sum())


def encode_documents(tokenizer: BertTokenizer, documents: Sequence[Sequence[str]]) -> list[list[EncodedSentence]]:
    """Token ids and word starts of every sentence, cut at the longest training sequence."""
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    weights = entry_weights([entry for entry, _ in ordered])
    flat = [sentence for sentences in documents for sentence in sentences]
    encodings = iter(tokenizer.backend_tokenizer.encode_batch(flat, add_special_tokens=False))
    result = []
    for sentences in documents:
        encoded = []
        for _ in sentences:
            encoding = next(encodings)
            ids = np.asarray(encoding.ids[: MAXIMUM_SEQUENCE - 2], dtype=np.int32)
            if not len(ids):
                continue
            words = np.asarray(encoding.word_ids[: MAXIMUM_SEQUENCE - 2], dtype=np.int32)
            starts = np.flatnonzero(np.diff(words, prepend=-1)).astype(np.int32)
            encoded.append(EncodedSentence(ids, starts, word_weights(ids, starts, weights)))
        result.append(encoded)
    return result


def join_sentences(sentences: Sequence[EncodedSentence]) -> EncodedSentence:
    """Sentences laid end to end as one."""
    offsets = np.cumsum([0, *(len(sentence.ids) for sentence in sentences[:-1])])
    return EncodedSentence(
        np.concatenate([sentence.ids for sentence in sentences]),
        np.concatenate([s.starts + offset for s, offset in zip(sentences, offsets, strict=True)]).astype(np.int32),
        np.concatenate([sentence.weights for sentence in sentences]),
    )


def _endless_sequences(
    documents: Sequence[Sequence[EncodedSentence]], random: np.random.Generator
) -> Iterator[EncodedSentence]:
    """Sentences and short runs of sentences of one document, in a fresh order every epoch."""
    while True:
        for index in random.permutation(len(documents)):
            sentences = documents[index]
            start = 0
            while start < len(sentences):
                end = start + 1
                if random.random() < SHARE_OF_RUNS:
                    length = len(sentences[start].ids)
                    while end < len(sentences) and length + len(sentences[end].ids) <= MAXIMUM_SEQUENCE - 2:
                        length += len(sentences[end].ids)
                        end += 1
                        if random.random() < 0.5:
                            break
                yield join_sentences(sentences[start:end])
                start = end


def training_batches(
    sources: Mapping[str, Sequence[Sequence[EncodedSentence]]],
    weights: Mapping[str, float],
    token_budget: int,
    special: tuple[int, int, int, int],
    seed: int,
) -> Iterator[MaskedBatch]:
    """Endless masked batches of at most ``token_budget`` padded tokens.

    ``weights`` are shares of tokens by source; ``special`` the ids of ``[CLS]``, ``[SEP]``, ``[MASK]``, ``[PAD]``.
    """
    random = np.random.default_rng(seed)
    names = [name for name in sources if sources[name] and weights.get(name, 0) > 0]
    streams = {name: _endless_sequences(sources[name], random) for name in names}
    wanted = np.array([weights[name] for name in names])
    wanted = wanted / wanted.sum()
    drawn = np.zeros(len(names))
    while True:
        pool: list[EncodedSentence] = []
        while len(pool) < POOL_SEQUENCES:
            # The source furthest behind its share comes next, so shares hold in tokens, not in sequences.
            source = int(np.argmin(drawn / wanted))
            sequence = next(streams[names[source]])
            drawn[source] += len(sequence.ids)
            pool.append(sequence)
        random.shuffle(pool)
        pool.sort(key=lambda sequence: len(sequence.ids))
        groups = _groups(pool, token_budget)
        for group in random.permutation(len(groups)):
            yield mask_batch(groups[group], special, random)


def _groups(pool: Sequence[EncodedSentence], token_budget: int) -> list[list[EncodedSentence]]:
    """Cut a length-sorted pool into groups whose padded size stays within the budget."""
    groups: list[list[EncodedSentence]] = [[]]
    for sequence in pool:
        width = len(sequence.ids) + 2
        if groups[-1] and width * (len(groups[-1]) + 1) > token_budget:
            groups.append([])
        groups[-1].append(sequence)
    return groups


def mask_batch(
    sequences: Sequence[EncodedSentence], special: tuple[int, int, int, int], random: np.random.Generator
) -> MaskedBatch:
    """Pad, frame with special tokens and mask a group of sequences, each at a rate of its own."""
    start, end, mask, padding = special
    width = max(len(sequence.ids) for sequence in sequences) + 2
    ids = np.full((len(sequences), width), padding, dtype=np.int64)
    attention = np.zeros_like(ids)
    labels = np.full_like(ids, -1)
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        chosen = choose_masked(sequence, random.uniform(LOWEST_RATE, HIGHEST_RATE), random)
        ids[row, 0], ids[row, length + 1] = start, end
        ids[row, 1 : length + 1] = np.where(chosen, mask, sequence.ids)
        attention[row, : length + 2] = 1
        labels[row, 1 : length + 1] = np.where(chosen, sequence.ids, -1)
    positions = np.flatnonzero(labels.reshape(-1) >= 0)
    return MaskedBatch(ids, attention, positions, labels.reshape(-1)[positions])
