"""Editing a WordPiece vocabulary for a domain: entries that cannot matter go, frequent whole words come in.

A word that the domain uses often but WordPiece splits ("powershell" -> "powers", "##hell") cannot be predicted
by one mask. As an entry of its own it can; its embedding starts as the mean of its pieces' embeddings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import BertTokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAXIMUM_POSITIONS = 512
# BERT's vocabulary is ordered by frequency: whole words past this rank are rare names and places. They stay
# only where the corpus has them; elsewhere they are spelt by pieces.
COMMON_ENGLISH = 12_000
# Words that mix letters and digits ("rundll32", but also version numbers) must be this much more frequent.
MIXED_WORD_FACTOR = 3
_WORD_ENTRY = re.compile(r"[a-z][a-z0-9]{1,23}")


@dataclass(frozen=True)
class EditedVocabulary:
    """The new entries in order, and for each the ids in the old vocabulary that its embedding is the mean of."""

    entries: tuple[str, ...]
    origins: tuple[tuple[int, ...], ...]
    dropped: int
    added: int


def can_matter(entry: str) -> bool:
    """Whether an entry can occur in English text: no placeholder, no letter outside Latin script."""
    if entry in SPECIAL_TOKENS:
        return True
    if entry.startswith("[unused"):
        return False
    return all(ord(character) < 0x250 or 0x2000 <= ord(character) < 0x2200 for character in entry)


def edit_vocabulary(
    tokenizer: BertTokenizer, words: Counter[str], minimum_count: int, maximum_added: int
) -> EditedVocabulary:
    """Drop entries that cannot matter and add the most frequent whole words that are split today.

    ``words`` counts lower-case words in the training text (each document once a word, so that one long report
    does not choose the vocabulary).
    """
    old = tokenizer.get_vocab()
    kept = sorted(
        (index, entry)
        for entry, index in old.items()
        if can_matter(entry) and (index < COMMON_ENGLISH or entry.startswith("##") or entry in words)
    )
    entries: list[str] = [*SPECIAL_TOKENS, *(entry for _, entry in kept if entry not in SPECIAL_TOKENS)]
    origins: list[tuple[int, ...]] = [(old[entry],) for entry in entries]
    missing = [
        (word, count)
        for word, count in words.items()
        if count >= (minimum_count if word.isalpha() else MIXED_WORD_FACTOR * minimum_count)
        and word not in old
        and _WORD_ENTRY.fullmatch(word)
    ]
    missing.sort(key=lambda pair: (-pair[1], pair[0]))
    for word, _ in missing[:maximum_added]:
        entries.append(word)
        origins.append(tuple(old[piece] for piece in tokenizer.tokenize(word)))
    added = len(entries) - len(kept)
    return EditedVocabulary(tuple(entries), tuple(origins), len(old) - len(kept), added)


def count_words(tokenizer: BertTokenizer, documents: Iterable[Iterable[str]]) -> Counter[str]:
    """In how many documents each word occurs, words as the tokenizer's normaliser and pre-tokenizer see them."""
    normalise = tokenizer.backend_tokenizer.normalizer.normalize_str
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    counts: Counter[str] = Counter()
    for sentences in documents:
        words: set[str] = set()
        for sentence in sentences:
            words.update(word for word, _ in split(normalise(sentence)))
        counts.update(words)
    return counts


def build_tokenizer(entries: Iterable[str]) -> BertTokenizer:
    """The uncased WordPiece tokenizer of these entries."""
    from transformers import BertTokenizer

    vocabulary = {entry: index for index, entry in enumerate(entries)}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=MAXIMUM_POSITIONS)


def edited_embeddings(old: torch.Tensor, origins: Iterable[tuple[int, ...]]) -> torch.Tensor:
    """Embedding rows of the edited vocabulary, each the mean of the old rows it comes from. [V_new, H]"""
    import torch

    return torch.stack([old[list(pieces)].mean(dim=0) for pieces in origins])
