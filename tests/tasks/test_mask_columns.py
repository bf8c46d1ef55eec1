"""Columns of rows whose masks the model has not all seen."""

import numpy as np
from tiny_models import roberta_tokenizer

from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.windows import MaskedTexts
from secbatch.tasks.mask_columns import mask_columns

TOKENIZER = TextTokenizer(roberta_tokenizer(), 32)


def test_a_row_of_whose_masks_none_was_seen_has_them_without_predictions_and_no_best_word() -> None:
    """As where an added word of the model took the mask's characters."""
    counts, seen = np.array([2, 1, 3]), np.array([2, 0, 1])
    texts = MaskedTexts(TokenSequences.of([]), counts, seen, np.array([False, False, True]))
    ids = np.array([[40, 41], [42, 43], [44, 45]], np.int32)
    scores = np.array([[0.5, 0.25], [0.75, 0.125], [0.875, 0.0625]], np.float32)
    columns = mask_columns("mask", np.array([1, 0, -1, 2, 1]), texts, ids, scores, TOKENIZER)
    made = {name.removeprefix("mask_"): column.to_pylist() for name, column in columns.items()}
    words = TOKENIZER.word_column(ids.ravel()).to_pylist()
    assert made["top"] == [None, words[0], None, words[4], None]
    assert made["score"] == [None, 0.5, None, 0.875, None]
    assert made["truncated"] == [False, False, None, True, False]
    predictions = [
        None if masks is None else [[entry["score"] for entry in mask] for mask in masks]
        for masks in made["predictions"]
    ]
    assert predictions == [[[]], [[0.5, 0.25], [0.75, 0.125]], None, [[0.875, 0.0625], [], []], [[]]]
