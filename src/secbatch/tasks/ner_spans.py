"""From a label for each token to spans of text, as the stock `token-classification` pipeline has them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secbatch.models.overlapping import WindowedTexts
from secbatch.tasks.label_scheme import LabelScheme


@dataclass(frozen=True)
class Spans:
    """S spans of u texts, text by text, in order."""

    counts: np.ndarray  # [u] int64, spans of each text
    types: np.ndarray  # [S] int32, places in the scheme's types
    starts: np.ndarray  # [S] int32, characters of the text
    ends: np.ndarray  # [S] int32
    scores: np.ndarray  # [S] float32

    def where(self, kept: np.ndarray) -> "Spans":
        """Those that are `kept` ([S] bool)."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        counts = np.bincount(owner[kept], minlength=len(self.counts))
        return Spans(counts, self.types[kept], self.starts[kept], self.ends[kept], self.scores[kept])


def starts_of_words(
    found: WindowedTexts, texts: Sequence[str], lengths: np.ndarray | None, unknown: int | None
) -> np.ndarray:
    """Which of the N tokens start a word ([N] bool), by the stock pipeline's rule.

    `lengths`: characters of each vocabulary entry as it is written, for vocabularies that mark the pieces inside of
    words (##ing): such a piece is longer than what it stands for. None for others: there, a word starts where a space
    stands, and punctuation belongs to the word it touches. The `unknown` token is always a word.
    """
    inside = lengths[found.ids] != found.ends - found.starts if lengths is not None else ~_beside_a_space(found, texts)
    if unknown is not None:
        inside &= found.ids != unknown
    inside[(np.cumsum(found.counts) - found.counts)[found.counts > 0]] = False
    return ~inside


def _beside_a_space(found: WindowedTexts, texts: Sequence[str]) -> np.ndarray:
    """Whether a token starts its text, or with a space, or after one: [N] bool."""
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    first = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    owner = np.repeat(np.arange(len(texts)), found.counts)
    place = first[owner] + found.starts
    spaces = np.append(points == ord(" "), False)
    after = spaces[place] & (place < first[owner + 1])
    beside: np.ndarray = (found.starts == 0) | after | spaces[place - 1]
    return beside


def grouped(
    labels: np.ndarray, scores: np.ndarray, unit_starts: np.ndarray, found: WindowedTexts, scheme: LabelScheme
) -> Spans:
    """Spans from units (words or tokens): neighbours of one type are one, unless a label says that a new one begins.

    `labels` [m] and `scores` [m] of the units, `unit_starts` [m]: their first tokens among the N of `found`. A span's
    score is the mean of its units'.
    """
    owner = np.repeat(np.arange(len(found.counts)), found.counts)[unit_starts]
    kinds = scheme.type_of[labels]
    new = np.ones(len(labels), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (kinds[1:] != kinds[:-1])
    new[1:] |= scheme.begins[labels[1:]] | scheme.ends[labels[:-1]]
    group = np.flatnonzero(new)
    sizes = np.diff(np.append(group, len(labels)))
    means = np.add.reduceat(scores.astype(np.float64), group) / sizes if len(group) else np.zeros(0)
    stops = np.append(unit_starts, len(found.ids))[group + sizes]  # the token after each group
    inside = kinds[group] >= 0
    return Spans(
        np.bincount(owner[group][inside], minlength=len(found.counts)),
        kinds[group][inside],
        found.starts[unit_starts[group[inside]]],
        found.ends[stops[inside] - 1],
        means[inside].astype(np.float32),
    )


def trimmed(spans: Spans, texts: Sequence[str]) -> Spans:
    """The spans without white space at their ends, and none that is empty then.

    Of spans that share a character (one that the vocabulary takes to pieces) the best is kept. Where a vocabulary
    such as XLM-R's has the mark of a space as a token of its own at a text's start, that mark claims the first
    character: of two spans of one type that start together the longer is the word, the other its first character.
    """
    owner = np.repeat(np.arange(len(texts)), spans.counts)
    starts, ends = spans.starts.copy(), spans.ends.copy()
    kept = np.ones(len(owner), bool)
    last = -1  # the last span that is kept
    for place, (text, start, end) in enumerate(zip(owner.tolist(), starts.tolist(), ends.tolist(), strict=True)):
        covered = texts[text][start:end]
        bare = covered.strip()
        if len(bare) < len(covered):
            starts[place] = start + len(covered) - len(covered.lstrip())
            ends[place] = starts[place] + len(bare)
        if not bare:
            kept[place] = False
        elif last >= 0 and owner[last] == text and starts[place] < ends[last]:
            one_word = starts[place] == starts[last] and spans.types[place] == spans.types[last]
            by = ends if one_word and ends[place] != ends[last] else spans.scores
            worse = place if by[place] <= by[last] else last
            kept[worse] = False
            last = last if worse == place else place
        else:
            last = place
    return Spans(spans.counts, spans.types, starts, ends, spans.scores).where(kept)
