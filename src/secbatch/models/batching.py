"""Which sequences go through the model together."""

import numpy as np


def plan_batches(
    lengths: np.ndarray, token_budget: int, *, padded: bool = False, max_rows: int | None = None
) -> list[np.ndarray]:
    """Splits rows into batches of at most `token_budget` tokens, longest rows first.

    `lengths`: [n] token counts. With `padded`, a batch costs rows × its longest row, as a rectangular tensor
    does; otherwise it costs its tokens, as sequences laid end to end do. A row longer than the budget is a
    batch alone. `max_rows` bounds the rows of a batch. Returns row numbers (int64), one array a batch; every
    row is in exactly one batch. Pure and stable: the same lengths give the same plan, and rows of one length
    keep their order.
    """
    if token_budget < 1:
        raise ValueError("token_budget must be at least 1")
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    ends = np.cumsum(ordered)  # tokens up to and with each row
    batches = []
    start = 0
    while start < len(order):
        if padded:
            stop = start + int(token_budget // max(int(ordered[start]), 1))
        else:
            before = int(ends[start] - ordered[start])
            stop = int(np.searchsorted(ends, before + token_budget, side="right"))
        stop = max(stop, start + 1)
        if max_rows is not None:
            stop = min(stop, start + max_rows)
        batches.append(order[start : min(stop, len(order))])
        start = stop
    return batches


def even_budget(lengths: np.ndarray, token_budget: int) -> int:
    """The budget, at most `token_budget`, with which `plan_batches` makes batches of about as many tokens each.

    For sequences of `lengths` [n] laid end to end. A last batch that is smaller than the others would be a shape of its
    own in every shard.
    """
    total, longest = int(lengths.sum()), int(lengths.max(initial=1))
    count = -(-total // token_budget)
    while count and -(-total // count) + longest > token_budget:
        count += 1
        if longest * 2 > token_budget:
            return token_budget
    return -(-total // count) + longest if count > 1 else token_budget
