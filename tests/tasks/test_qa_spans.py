"""The best spans of a context, against all that there are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secbatch.models.question_windows import QuestionWindows
from secbatch.models.sequences import TokenSequences
from secbatch.tasks.qa_spans import BLOCK, SPARE, best_answers

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


def test_as_many_spans_as_are_wanted_where_white_space_is_tokens_of_its_own() -> None:
    words, _ = one_window(20)
    spaces = replace(words, starts=words.starts + 3, ends=words.ends + 1)
    windows = replace(
        one_window(40)[0],
        starts=np.stack([words.starts, spaces.starts], axis=1).ravel(),
        ends=np.stack([words.ends, spaces.ends], axis=1).ravel(),
    )
    logits = np.random.default_rng(0).standard_normal((41, 2)).astype(np.float32)
    logits[1:] = np.repeat(logits[1::2], 2, axis=0)  # a space is as good an end as the word before it
    found = best_answers(windows, logits, ["abc " * 20], 50, LONGEST, None)
    assert found.counts.tolist() == [50]
    assert len(set(zip(found.starts.tolist(), found.ends.tolist(), strict=True))) == 50


def test_of_a_long_window_few_spans_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    partition, lexsort = np.partition, np.lexsort

    def parted(values: np.ndarray, *rest: Any, **options: Any) -> np.ndarray:
        compared.append(values.size)
        return partition(values, *rest, **options)

    def ordered(keys: tuple[np.ndarray, ...]) -> np.ndarray:
        compared.append(len(keys[0]))
        return lexsort(keys)

    monkeypatch.setattr(np, "partition", parted)
    monkeypatch.setattr(np, "lexsort", ordered)
    windows, context = one_window(400)
    logits = np.random.default_rng(0).standard_normal((401, 2)).astype(np.float32)
    best_answers(windows, logits, [context], 1, LONGEST, None)
    assert sum(compared) <= 400 + (1 + SPARE) * LONGEST


def several_windows(sizes: list[list[int]]) -> tuple[QuestionWindows, np.ndarray, list[str]]:
    """Windows of `sizes` over a context for each pair; neighbours share a token. Of their scores, many are equal."""
    bodies, firsts, nulls, contexts, of_contexts = [], [], [], [], 0
    flat = 0
    for of_pair in sizes:
        first = 0
        for size in of_pair:
            nulls.append(flat)
            bodies.append(flat + 1)
            firsts.append(of_contexts + first)
            flat += 1 + size
            first += max(size - 1, 0)
        contexts.append("abc " * (first + 1))
        of_contexts += first + 1
    starts = np.concatenate([4 * np.arange(len(context) // 4, dtype=np.int32) for context in contexts])
    windows = QuestionWindows(
        sequences=TokenSequences.of([np.zeros(flat, np.int32)]),
        counts=np.array([len(of_pair) for of_pair in sizes]),
        body=np.array(bodies),
        sizes=np.array([size for of_pair in sizes for size in of_pair]),
        null=np.array(nulls),
        first=np.array(firsts),
        starts=starts,
        ends=starts + 3,
    )
    return windows, np.random.default_rng(flat).integers(0, 9, (flat, 2)).astype(np.float32), contexts


@pytest.mark.parametrize("block", [1, 50, 1 << 15])
@pytest.mark.parametrize("threshold", [None, 1.0])
def test_pairs_beside_each_other_have_the_answers_that_each_has_alone(
    block: int, threshold: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [[3], [40, 40, 12], [0], [1], [200], [7, 7], [0, 5], [40]]
    windows, logits, contexts = several_windows(sizes)
    monkeypatch.setattr("secbatch.tasks.qa_spans.BLOCK", block)
    together = best_answers(windows, logits, contexts, 3, LONGEST, threshold)
    first, span = 0, 0
    for pair, context in enumerate(contexts):
        mine = slice(first, first + len(sizes[pair]))
        first = mine.stop
        of_pair = {name: getattr(windows, name)[mine] for name in ("body", "sizes", "null", "first")}
        alone = replace(windows, counts=windows.counts[pair : pair + 1], **of_pair)
        answer = best_answers(alone, logits, [context], 3, LONGEST, threshold)
        spans = slice(span, span + int(together.counts[pair]))
        span = spans.stop
        for name in ("starts", "ends", "scores"):
            assert np.array_equal(getattr(together, name)[spans], getattr(answer, name))
        for name in ("counts", "none", "answered"):
            assert getattr(together, name)[pair] == getattr(answer, name)[0]
    assert span == len(together.starts)


def test_short_pairs_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    partition = np.partition

    def counted(values: np.ndarray, *rest: Any, **options: Any) -> np.ndarray:
        calls.append(values.shape)
        return partition(values, *rest, **options)

    monkeypatch.setattr(np, "partition", counted)
    windows, logits, contexts = several_windows([[40]] * 1000)
    best_answers(windows, logits, contexts, 1, LONGEST, None)
    assert len(calls) <= 1 + windows.sizes.sum() // BLOCK


def test_a_model_that_scores_all_tokens_alike_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_values = []
    lexsort = np.lexsort

    def ordered(keys: tuple[np.ndarray, ...]) -> np.ndarray:
        sorted_values.append(len(keys[0]))
        return lexsort(keys)

    monkeypatch.setattr(np, "lexsort", ordered)
    windows, logits, contexts = several_windows([[400]])
    found = best_answers(windows, np.zeros_like(logits), contexts, 2, LONGEST, None)
    assert found.starts.tolist() == [0, 0] and found.ends.tolist() == [3, 7]
    assert max(sorted_values) <= (2 + SPARE) * LONGEST
