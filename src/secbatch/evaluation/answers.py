"""Answers to questions: exact match and F1 over words, as SQuAD measures them.

Source: P. Rajpurkar et al., SQuAD (EMNLP 2016), and its version 2.0 (ACL 2018) for questions that have no answer.
"""

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from secbatch.evaluation.tally import Figure, Tally, ratio

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class AnswerFigures:
    """Shares between 0 and 1. A question without an answer is right when none is given; NaN where none is of a kind."""

    rows: int
    exact: float
    f1: float
    answerable_exact: float
    answerable_f1: float
    unanswerable: float  # share of the questions without an answer for which none was given


def normalised(answer: str) -> str:
    """Lower case, without ASCII punctuation, English articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, references: Collection[str]) -> bool:
    """Whether the answer is one of `references`, both normalised; no references: whether it is empty."""
    return normalised(answer) in {normalised(reference) for reference in references or ("",)}


def word_f1(answer: str, references: Collection[str]) -> float:
    """The best F1 over words with one of `references`; no references: 1 for an empty answer, else 0."""
    return max(_word_f1(normalised(answer).split(), normalised(one).split()) for one in references or ("",))


def _word_f1(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def answer_tally(answers: Sequence[str | None], references: Sequence[Collection[str]]) -> Tally:
    """Counts: questions with an answer, exact among them, their F1; questions without, right ones among them."""

    def outcome(answer: str | None, wanted: Collection[str]) -> tuple[bool, bool, float]:
        given = answer or ""
        answerable = any(one.strip() for one in wanted)
        # As SQuAD 2.0's script has it: no answer would equal "A", of which nothing is left, beside "vitamin A".
        wanted = [one for one in wanted if normalised(one)]
        return answerable, exact_match(given, wanted), word_f1(given, wanted)

    def count(found: tuple[bool, bool, float]) -> np.ndarray:
        answerable, exact, f1 = found
        return np.array([1, exact, f1, 0, 0] if answerable else [0, 0, 0, 1, exact], float)

    return Tally.of([outcome(*pair) for pair in zip(answers, references, strict=True)], count)


ANSWERS: dict[str, Figure] = {
    "exact": lambda counts: ratio(counts[..., 1] + counts[..., 4], counts[..., 0] + counts[..., 3]),
    "f1": lambda counts: ratio(counts[..., 2] + counts[..., 4], counts[..., 0] + counts[..., 3]),
    "answerable_exact": lambda counts: ratio(counts[..., 1], counts[..., 0]),
    "answerable_f1": lambda counts: ratio(counts[..., 2], counts[..., 0]),
    "unanswerable": lambda counts: ratio(counts[..., 4], counts[..., 3]),
}


def answer_figures(answers: Sequence[str | None], references: Sequence[Collection[str]]) -> AnswerFigures:
    """`references`: the right answers of each question, none where it has none. None as an answer is none given."""
    total = answer_tally(answers, references).total()
    return AnswerFigures(len(answers), **{name: float(figure(total)) for name, figure in ANSWERS.items()})
