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


def without_failed(rows: np.ndarray, errors: Mapping[int, str]) -> tuple[np.ndarray, dict[int, str]]:
    """The text that each row has, -1 where that failed; and the sentences by row.

    `rows`: int64 [n], the text that each row has; `errors`: sentences by text.
    """
    failed = np.isin(rows, list(errors))
    return np.where(failed, -1, rows), {int(row): errors[int(rows[row])] for row in np.flatnonzero(failed)}


def done_texts(count: int, errors: Mapping[int, str]) -> np.ndarray:
    """bool [u]: of so many texts those that could be done. `errors`: sentences by text."""
    done = np.ones(count, bool)
    done[list(errors)] = False
    return done


def texts_of_windows(
    broken: np.ndarray, windows: TokenSequences, owners: np.ndarray, errors: Mapping[int, str], model: str
) -> dict[int, str]:
    """Sentences by text: of those of which a window failed, or got scores that are no numbers.

    `broken`: bool [T], the tokens with such scores; `owners`: int64 [w], the text of each window; `errors`: sentences
    by window.
    """
    found = np.unique(np.searchsorted(windows.offsets, np.flatnonzero(broken), side="right") - 1)
    wrong = {**dict.fromkeys(found.tolist(), broken_scores(model)), **errors}
    return {int(owners[window]): text for window, text in wrong.items()}


def broken_scores(model: str) -> str:
    return f"model {model} gave scores that are no numbers (its weights may be broken)"
