"""The best spans of a context, from the scores of its tokens as starts and ends of the answer.

A span's rank is the sum of its two logits, so the first one is the head's own argmax over the spans that can be an
answer. Its score is the product of two softmaxes, as in the stock question-answering pipeline: over the context's
tokens and the token that stands for "no answer". Where windows overlap, the better of a token's logits counts; of
the "no answer" tokens, the least sure (Devlin et al. 2018, arXiv:1810.04805, and SQuAD 2.0, arXiv:1806.03822).
"""

from dataclasses import dataclass

import numpy as np

from secbatch.models.question_windows import QuestionWindows

SPARE = 8  # spans beyond those that are wanted: some differ in white space alone


@dataclass(frozen=True)
class Answers:
    """Of u pairs: the best spans of each, S in all, best first."""

    counts: np.ndarray  # [u] int64
    starts: np.ndarray  # [S] int32, characters of the context
    ends: np.ndarray  # [S] int32, exclusive
    scores: np.ndarray  # [S] float32
    none: np.ndarray  # [u] float32, score of "no answer"
    answered: np.ndarray  # [u] bool


def best_answers(
    windows: QuestionWindows,
    logits: np.ndarray,
    contexts: list[str],
    top_k: int,
    longest: int,
    threshold: float | None,
) -> Answers:
    """`logits`: [T, 2], of each token of the windows as start and as end. `longest`: tokens of an answer at most.

    `threshold`: there is no answer where its sum of logits is below that of "no answer" by more; None: there is one.
    """
    counts = np.zeros(len(contexts), np.int64)
    none, answered = np.zeros(len(contexts), np.float32), np.zeros(len(contexts), bool)
    spans: list[tuple[int, int, float]] = []
    window = 0
    for pair, context in enumerate(contexts):
        mine = range(window, window + int(windows.counts[pair]))
        window = mine.stop
        empty = min((logits[windows.null[number]] for number in mine), key=lambda two: float(two.sum()))
        found = _best_of_windows(windows, logits, mine, top_k + SPARE, longest)
        total = _total(windows, logits, mine, empty)
        kept = _as_written(found, windows, context)[:top_k]
        spans += [(start, end, np.exp(sum_ - total)) for start, end, sum_ in kept]
        counts[pair] = len(kept)
        none[pair] = np.exp(float(empty.sum()) - total)
        answered[pair] = bool(kept) and (threshold is None or float(empty.sum()) - kept[0][2] <= threshold)
    table = np.array(spans, np.float64).reshape(-1, 3)
    starts, ends = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32)
    return Answers(counts, starts, ends, table[:, 2].astype(np.float32), none, answered)


def _best_of_windows(
    windows: QuestionWindows, logits: np.ndarray, mine: range, count: int, longest: int
) -> list[tuple[int, int, float]]:
    """(first token, last token, sum of logits) of the best spans, best first; of equals, the earlier and shorter."""
    best: dict[tuple[int, int], float] = {}
    for number in mine:
        size, first = int(windows.sizes[number]), int(windows.first[number])
        if not size:
            continue
        two = logits[windows.body[number] : windows.body[number] + size].astype(np.float64)
        width = min(longest, size)
        ends = np.append(two[:, 1], np.full(width - 1, -np.inf))
        sums = two[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, width)  # [start, tokens more]
        # The best of all begin where the best of those from one token are among the best: few of them are looked at.
        tops = sums.max(axis=1)
        starts = np.flatnonzero(tops >= _least(tops, count))
        flat = sums[starts].ravel()
        some = np.flatnonzero(flat >= _least(flat, count))
        for place in some[np.argsort(-flat[some], kind="stable")][:count].tolist():
            start = first + int(starts[place // width])
            span = (start, start + place % width)
            if np.isfinite(flat[place]):
                best[span] = max(best.get(span, -np.inf), float(flat[place]))
    return sorted(((*span, total) for span, total in best.items()), key=lambda one: (-one[2], one[0], one[1]))


def _least(values: np.ndarray, count: int) -> float:
    """The least of the `count` largest; of fewer, less than any."""
    return float(np.partition(values, -count)[-count]) if count < len(values) else -np.inf


def _total(windows: QuestionWindows, logits: np.ndarray, mine: range, empty: np.ndarray) -> float:
    """The logarithm of what both softmaxes divide by."""
    low = int(windows.first[mine.start])
    high = max(int(windows.first[number] + windows.sizes[number]) for number in mine)
    best = np.full((high - low + 1, 2), -np.inf)
    best[-1] = empty
    for number in mine:
        size, first = int(windows.sizes[number]), int(windows.first[number]) - low
        seen = logits[windows.body[number] : windows.body[number] + size]
        best[first : first + size] = np.maximum(best[first : first + size], seen)
    top = best.max(axis=0)
    return float((top + np.log(np.exp(best - top).sum(axis=0))).sum())


def _as_written(
    found: list[tuple[int, int, float]], windows: QuestionWindows, context: str
) -> list[tuple[int, int, float]]:
    """Spans of tokens as spans of characters, without white space around them, each once."""
    kept: dict[tuple[int, int], float] = {}
    for first, last, total in found:
        start, end = int(windows.starts[first]), int(windows.ends[last])
        text = context[start:end]
        start += len(text) - len(text.lstrip())
        end = start + len(text.strip())
        if start < end:
            kept.setdefault((start, end), total)
    return [(*place, total) for place, total in kept.items()]
