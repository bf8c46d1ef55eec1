"""Words behind masks: hit at k and mean reciprocal rank.

As SecureBERT's authors evaluate (E. Aghaei et al., SecureBERT, 2022, section 4): one word of a sentence is masked;
a hit at k when it is among the first k predictions.
"""

from collections.abc import Collection, Sequence

import numpy as np

from secbatch.evaluation.tally import Figure, Tally, ratio

HITS_AT = (1, 3, 5, 10)


def rank(words: Sequence[str], wanted: Collection[str]) -> int | None:
    """The place, from 1, of the first of `words` that is among `wanted`, case aside; None when none is.

    Predictions that are the same word (" Malware" and "malware") take one place.
    """
    right = {word.strip().casefold() for word in wanted}
    different = dict.fromkeys(word.strip().casefold() for word in words)
    return next((place for place, word in enumerate(different, 1) if word in right), None)


def masked_word_tally(ranks: Sequence[int | None], hits_at: Sequence[int] = HITS_AT) -> Tally:
    """Counts: rows, hits at each k, reciprocal ranks. `ranks`: one a row, None for a word that was not predicted."""

    def count(place: int | None) -> np.ndarray:
        if place is None:
            return np.array([1.0] + [0.0] * len(hits_at) + [0.0])
        return np.array([1.0, *(float(place <= k) for k in hits_at), 1 / place])

    return Tally.of(ranks, count)


def masked_word_metrics(hits_at: Sequence[int] = HITS_AT) -> dict[str, Figure]:
    """The figures of such a tally, by name: hit@k, mrr."""

    def share(place: int) -> Figure:
        return lambda counts: ratio(counts[..., place], counts[..., 0])

    hits = {f"hit@{k}": share(1 + number) for number, k in enumerate(hits_at)}
    return {**hits, "mrr": share(1 + len(hits_at))}
