"""The best spans of a context, against all that there are."""

from typing import Any

import numpy as np
import pytest

from secbatch.models.question_windows import QuestionWindows
from secbatch.models.sequences import TokenSequences
from secbatch.tasks.qa_spans import SPARE, best_answers

LONGEST = 30


def one_window(tokens: int) -> tuple[QuestionWindows, str]:
    """A window over a context of words of three letters, behind the token that stands for "no answer"."""
    starts = 4 * np.arange(tokens, dtype=np.int32)
    windows = QuestionWindows(
        sequences=TokenSequences.of([np.zeros(tokens + 1, np.int32)]),
        counts=np.array([1]),
        body=np.array([1]),
        sizes=np.array([tokens]),
        null=np.array([0]),
        first=np.array([0]),
        starts=starts,
        ends=starts + 3,
    )
    return windows, "abc " * tokens


@pytest.mark.parametrize("tokens", [1, 5, 12, 40, 200])
@pytest.mark.parametrize("values", [3, 1000])  # with few different ones, many spans are as good as others
@pytest.mark.parametrize("count", [1, 7])
def test_the_best_of_all_spans_are_found_in_their_order(tokens: int, values: int, count: int) -> None:
    logits = np.random.default_rng(tokens).integers(0, values, (tokens + 1, 2)).astype(np.float32)
    windows, context = one_window(tokens)
    found = best_answers(windows, logits, [context], count, LONGEST, None)
    spans = [
        (-float(logits[1 + start, 0] + logits[1 + end, 1]), start, end)
        for start in range(tokens)
        for end in range(start, min(start + LONGEST, tokens))
    ]
    wanted = [(4 * start, 4 * end + 3) for _, start, end in sorted(spans)[:count]]
    assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == wanted


def test_of_a_long_window_few_spans_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    partition = np.partition

    def counted(values: np.ndarray, *rest: Any) -> np.ndarray:
        compared.append(len(values))
        return partition(values, *rest)

    monkeypatch.setattr(np, "partition", counted)
    windows, context = one_window(400)
    logits = np.random.default_rng(0).standard_normal((401, 2)).astype(np.float32)
    best_answers(windows, logits, [context], 1, LONGEST, None)
    assert sum(compared) <= 400 + (1 + SPARE) * LONGEST
