"""The best spans of a context, from the scores of its tokens as starts and ends of the answer.

A span's rank is the sum of its two logits, so the first one is the head's own argmax over the spans that can be an
answer. Its score is the product of two softmaxes, as in the stock question-answering pipeline: over the context's
tokens and the token that stands for "no answer". Where windows overlap, the better of a token's logits counts; of
the "no answer" tokens, the least sure (Devlin et al. 2018, arXiv:1810.04805, and SQuAD 2.0, arXiv:1806.03822).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from secbatch.models.question_windows import QuestionWindows
from secbatch.models.sequences import spans

SPARE = 8  # spans beyond those that are wanted: some differ in white space alone,
ALIKE = 4  # and so many of them where it is tokens of its own: with and without it, before and after
BLOCK = 1 << 15  # tokens whose spans are looked at together


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
    parts = [
        _best_of_pairs(some, logits, contexts[pairs], top_k, longest, threshold) for pairs, some in _blocks(windows)
    ]
    return Answers(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Answers)))


def _blocks(windows: QuestionWindows) -> Iterator[tuple[slice, QuestionWindows]]:
    """A few pairs at a time with their windows: of BLOCK tokens together, or a single pair. At least once."""
    firsts = np.append(0, np.cumsum(windows.counts))  # window
    tokens = np.append(0, np.cumsum(windows.sizes))[firsts]
    start, count = 0, len(windows.counts)
    while True:
        stop = min(max(int(np.searchsorted(tokens, tokens[start] + BLOCK, side="right")) - 1, start + 1), count)
        mine = slice(firsts[start], firsts[stop])
        per_window = {name: getattr(windows, name)[mine] for name in ("body", "sizes", "null", "first")}
        yield slice(start, stop), replace(windows, counts=windows.counts[start:stop], **per_window)
        if stop == count:
            return
        start = stop


def _best_of_pairs(
    windows: QuestionWindows,
    logits: np.ndarray,
    contexts: list[str],
    top_k: int,
    longest: int,
    threshold: float | None,
) -> Answers:
    owners = np.repeat(np.arange(len(contexts)), windows.counts)
    empty = _least_sure(logits[windows.null], owners, windows.counts)
    total = _totals(windows, logits, owners, empty)
    found, sums = _best_of_windows(windows, logits, max(top_k + SPARE, top_k * ALIKE), longest)
    found[:, 0] = owners[found[:, 0]]
    order = np.lexsort((found[:, 2], found[:, 1], -sums, found[:, 0]))  # of equal sums the earlier and shorter
    counts, starts, ends, chosen = _as_written(found[order], windows, contexts, top_k)
    sums = sums[order][chosen]
    none, first = empty.sum(axis=1).astype(np.float64), np.cumsum(counts) - counts
    answered = counts > 0
    if threshold is not None:
        answered[answered] = none[answered] - sums[first[answered]] <= threshold
    scores = np.exp(sums - np.repeat(total, counts)).astype(np.float32)
    return Answers(counts, starts, ends, scores, np.exp(none - total).astype(np.float32), answered)


def _least_sure(empty: np.ndarray, owners: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[u, 2]: of the logits of "no answer" of each window [w, 2], those that count for each pair."""
    order = np.lexsort((empty.sum(axis=1), owners))
    best: np.ndarray = empty[order[np.cumsum(counts) - counts]]
    return best


def _best_of_windows(
    windows: QuestionWindows, logits: np.ndarray, count: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `count` spans of each window: (window, first token, last token) [m, 3], and their sums of logits [m]."""
    order = np.argsort(-windows.sizes, kind="stable")  # windows of like sizes side by side: little is padded
    order = order[: np.count_nonzero(windows.sizes)]
    found, sums = [np.zeros((0, 3), np.int64)], [np.zeros(0)]
    while len(order):
        room = max(BLOCK // int(windows.sizes[order[0]]), 1)
        some, totals = _best_of_block(windows, order[:room], logits, count, longest)
        order = order[room:]
        found.append(some)
        sums.append(totals)
    return np.concatenate(found), np.concatenate(sums)


def _best_of_block(
    windows: QuestionWindows, block: np.ndarray, logits: np.ndarray, count: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    sizes = windows.sizes[block]
    size, width = int(sizes.max()), min(longest, int(sizes.max()))
    padded = np.full((2, len(block), size + width - 1), -np.inf)
    real = np.arange(size + width - 1) < sizes[:, None]
    padded[:, real] = logits[spans(windows.body[block], sizes)].T
    begins, ends = padded[0, :, :size], padded[1]
    # The best of all begin where the best of those from one token are among the best: few of them are looked at.
    tops = begins + _highest(ends, width)
    least = np.partition(tops, -count, axis=1)[:, -count, None] if count < size else np.full((len(block), 1), -np.inf)
    equal = tops == least
    rows, starts = np.nonzero((tops > least) | (equal & (least > -np.inf) & (equal.cumsum(axis=1) <= count)))
    sums = begins[rows, starts, None] + sliding_window_view(ends, width, axis=1)[rows, starts]  # [start, tokens more]
    one, more = np.nonzero((sums >= least[rows]) & (sums > -np.inf))
    sums, rows, starts = sums[one, more], rows[one], starts[one]
    order = np.lexsort((-sums, rows))  # stable: of equal sums the earlier and shorter
    kept = order[_rank(rows[order]) < count]
    first = windows.first[block[rows[kept]]] + starts[kept]
    return np.stack([block[rows[kept]], first, first + more[kept]], axis=1), sums[kept]


def _highest(values: np.ndarray, width: int) -> np.ndarray:
    """[w, size]: the largest of each of `values` [w, size + width - 1] and the width - 1 behind it."""
    reach = 1
    while 2 * reach <= width:
        values = np.maximum(values[:, :-reach], values[:, reach:])
        reach *= 2
    rest = width - reach
    return np.maximum(values[:, :-rest], values[:, rest:]) if rest else values


def _rank(owners: np.ndarray) -> np.ndarray:
    """[n] int64: the how manieth of its owner's each one is, from 0 on; `owners` [n] stand side by side."""
    places = np.arange(len(owners))
    return places - np.maximum.accumulate(np.where(np.diff(owners, prepend=-1) != 0, places, 0))


def _totals(windows: QuestionWindows, logits: np.ndarray, owners: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """[u]: the logarithm of what both softmaxes divide by."""
    firsts = np.cumsum(windows.counts) - windows.counts
    low = windows.first[firsts]
    sizes = np.maximum.reduceat(windows.first + windows.sizes, firsts) - low + 1  # tokens, and "no answer" behind them
    offsets = np.cumsum(sizes) - sizes
    best = np.full((int(sizes.sum()), 2), -np.inf)
    best[offsets + sizes - 1] = empty
    number = _rank(owners)
    for one in range(int(windows.counts.max(initial=0))):
        mine = np.flatnonzero(number == one)  # a window of each pair
        places = spans(offsets[owners[mine]] + windows.first[mine] - low[owners[mine]], windows.sizes[mine])
        best[places] = np.maximum(best[places], logits[spans(windows.body[mine], windows.sizes[mine])])
    top = np.maximum.reduceat(best, offsets)
    pair = np.repeat(np.arange(len(sizes)), sizes)
    shares = np.exp(best - top[pair])
    sums = np.stack([np.bincount(pair, one, len(sizes)) for one in shares.T], axis=1)
    return (top + np.log(sums)).sum(axis=1)


def _as_written(
    found: np.ndarray, windows: QuestionWindows, contexts: list[str], top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The first spans of each pair as characters, without white space around them, each once.

    `found`: (pair, first token, last token). Returns how many each pair has, starts, ends, and which of `found` it is.
    """
    counts = [0] * len(contexts)
    kept: dict[tuple[int, int, int], int] = {}
    columns = found[:, 0], windows.starts[found[:, 1]], windows.ends[found[:, 2]]
    for number, (pair, start, end) in enumerate(zip(*(one.tolist() for one in columns), strict=True)):
        if counts[pair] == top_k:
            continue
        text = contexts[pair][start:end]
        start += len(text) - len(text.lstrip())
        end = start + len(text.strip())
        if start < end and (pair, start, end) not in kept:
            kept[pair, start, end] = number
            counts[pair] += 1
    table = np.array(list(kept), np.int32).reshape(-1, 3)
    return np.array(counts, np.int64), table[:, 1], table[:, 2], np.array(list(kept.values()), np.int64)
