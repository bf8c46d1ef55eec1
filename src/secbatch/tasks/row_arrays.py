"""Arrays of all rows, from what there is for some of them."""

import numpy as np
import pyarrow as pa


def spread(values: np.ndarray, done: np.ndarray) -> np.ndarray:
    """[n]: `values` of the rows that are `done` ([n] bool), zeros for the others."""
    of_all = np.zeros(len(done), values.dtype)
    of_all[done] = values
    return of_all


def offsets(lengths: np.ndarray) -> pa.Array:
    """Where the list of each row begins, and the last one ends, for lists of these lengths [n]."""
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
