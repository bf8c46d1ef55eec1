"""Which sequences go through the model together."""

import numpy as np


def plan_batches(
    lengths: np.ndarray, token_budget: int, *, padded: bool = False, multiple: int = 1
) -> list[np.ndarray]:
    """Splits rows into batches of at most `token_budget` tokens, longest rows first.

    `lengths`: [n] token counts. With `padded`, a batch costs rows × its longest row, as a rectangular tensor
    does; otherwise it costs its tokens, as sequences laid end to end do. `multiple`: of tokens, to which the
    model itself fills up rows, and which they cost. A row longer than the budget is a batch alone. Returns row
    numbers (int64), one array a batch; every row is in exactly one batch. Pure and stable: the same lengths
    give the same plan, and rows of one length keep their order.
    """
    if token_budget < 1:
        raise ValueError("token_budget must be at least 1")
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    ordered = filled_up(lengths[order], multiple)
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
        batches.append(order[start:stop])
        start = stop
    return batches


def filled_up(lengths: np.ndarray, multiple: int) -> np.ndarray:
    """`lengths` [n], each raised to the next multiple."""
    filled: np.ndarray = -(-lengths // multiple) * multiple
    return filled
