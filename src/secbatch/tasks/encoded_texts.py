"""The distinct texts of a shard, tokenised, and the way back from them to its rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secbatch.models.sequences import TokenSequences
from secbatch.tasks.repeats import Recalled


@dataclass(frozen=True)
class EncodedTexts:
    """u distinct texts of a shard of n rows."""

    recalled: Recalled  # which text a row has: u of them are to be computed
    sequences: TokenSequences  # [u]


@dataclass(frozen=True)
class CutTexts(EncodedTexts):
    """Texts of which what is too long for the model is left out."""

    truncated: np.ndarray  # [u] bool


def failed_rows(rows: np.ndarray, errors: Mapping[int, str]) -> tuple[np.ndarray, dict[int, str]]:
    """bool [n], and the sentences by row. `rows`: int [n], the text that each row has; `errors`: sentences by text."""
    failed = np.isin(rows, list(errors))
    return failed, {int(row): errors[int(rows[row])] for row in np.flatnonzero(failed)}
