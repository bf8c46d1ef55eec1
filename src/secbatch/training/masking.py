"""Whole-word masking weighted toward what a masked LM is asked for: content words that are one entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTENT_WEIGHT = 1.0
SPLIT_WORD_WEIGHT = 0.12
FUNCTION_WORD_WEIGHT = 0.12
OTHER_WEIGHT = 0.03
MINIMUM_CONTENT_LETTERS = 4

FUNCTION_WORDS = frozenset(
    """
    about above across after again against also although among another because been before being below between
    both cannot could does doing done down during each either else ever every from further have having here
    hers herself himself however into itself just like many might more most much must myself neither only onto
    other others otherwise ours over same shall should since some such than that their theirs them themselves
    then there therefore these they this those though through thus toward towards under unless until upon very
    were what whatever when where whereas whether which while whom whose will with within without would your
    yours
    """.split()  # noqa: SIM905 (a list of two screens says no more)
)


def is_content_word(word: str) -> bool:
    """Whether a word is alphabetic, of four letters or more, and no function word."""
    lower = word.lower()
    return len(lower) >= MINIMUM_CONTENT_LETTERS and lower.isalpha() and lower not in FUNCTION_WORDS


@dataclass(frozen=True)
class EncodedSentence:
    """Token ids of one sentence without special tokens, grouped into words.

    ``ids`` [T] int32; ``starts`` [W] int32, first token of each word; ``weights`` [W] float32, how much more
    readily a word is masked than others.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int32]
    weights: NDArray[np.float32]


def word_weights(
    ids: NDArray[np.int32], starts: NDArray[np.int32], entry_weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Masking weight of each word. ``entry_weights`` [V] holds the weight of a word that is this one entry."""
    lengths = np.diff(np.append(starts, len(ids)))
    weights = np.where(lengths == 1, entry_weights[ids[starts]], np.float32(SPLIT_WORD_WEIGHT))
    return weights.astype(np.float32)


def entry_weights(entries: list[str]) -> NDArray[np.float32]:
    """Masking weight of each vocabulary entry standing as a whole word. [V]"""
    weights = np.full(len(entries), OTHER_WEIGHT, dtype=np.float32)
    for index, entry in enumerate(entries):
        if is_content_word(entry):
            weights[index] = CONTENT_WEIGHT
        elif entry.isalpha():
            weights[index] = FUNCTION_WORD_WEIGHT
    return weights


def choose_masked(sentence: EncodedSentence, rate: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Which tokens of a sentence are masked: ``rate`` of its words (at least one), drawn without replacement
    in proportion to their weights (Gumbel top-k; Efraimidis and Spirakis 2006). [T] bool"""
    words = len(sentence.starts)
    count = max(1, round(rate * words))
    scores = np.log(sentence.weights) + random.gumbel(size=words)
    chosen = np.zeros(words, dtype=bool)
    chosen[np.argpartition(-scores, min(count, words) - 1)[:count]] = True
    lengths = np.diff(np.append(sentence.starts, len(sentence.ids)))
    return np.repeat(chosen, lengths)
