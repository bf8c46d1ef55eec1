"""Predictions as columns, built from arrays."""

import numpy as np
import pyarrow as pa

from secbatch.models.sequences import spans
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.windows import MaskedTexts
from secbatch.tasks.row_arrays import offsets, spread

_PREDICTION = pa.struct([pa.field("token", pa.string()), pa.field("score", pa.float32())])


def mask_fields(name: str) -> tuple[pa.Field, ...]:
    """The columns of a fill-mask task `name`."""
    return (
        pa.field(f"{name}_predictions", pa.list_(pa.list_(_PREDICTION))),
        pa.field(f"{name}_top", pa.string()),
        pa.field(f"{name}_score", pa.float32()),
        pa.field(f"{name}_truncated", pa.bool_()),
    )


def mask_columns(
    name: str,
    rows: np.ndarray,
    texts: MaskedTexts,
    ids: np.ndarray,
    scores: np.ndarray,
    tokenizer: TextTokenizer,
) -> dict[str, pa.Array]:
    """Columns of n rows.

    `rows`: [n] which text a row has, -1 for none. `ids` [M, k] int32 and `scores` [M, k] float32: the
    predictions for the masks seen, text by text. Masks that were not seen get an empty list.
    """
    done = rows >= 0
    text = rows[done]  # [d]
    counts, seen = texts.mask_counts[text], texts.seen[text]
    first = (np.cumsum(texts.seen) - texts.seen)[text]  # [d] place in `ids` of the row's first mask
    places = spans(first, seen)  # [p] into `ids`, row by row
    predictions = pa.StructArray.from_arrays(
        [tokenizer.word_column(ids[places].ravel()), pa.array(scores[places].ravel())],
        fields=list(_PREDICTION),
    )
    # A mask has k predictions when it is among the first `seen` of its row, else none.
    number = spans(np.zeros(len(counts), np.int64), counts)
    lengths = np.where(number < np.repeat(seen, counts), ids.shape[1], 0)
    masks = pa.ListArray.from_arrays(offsets(lengths), predictions)
    top = np.zeros(len(rows), np.int32)
    top_score = np.zeros(len(rows), np.float32)
    has_top = np.zeros(len(rows), bool)
    has_top[np.flatnonzero(done)[seen > 0]] = True
    top[has_top], top_score[has_top] = best_entries(ids[first[seen > 0]], scores[first[seen > 0]], tokenizer)
    arrays = (
        pa.ListArray.from_arrays(offsets(spread(counts, done)), masks, mask=pa.array(~done)),
        tokenizer.word_column(top, absent=~has_top),
        pa.array(top_score, mask=~has_top),
        pa.array(spread(texts.truncated[text], done), mask=~done),
    )
    return {field.name: array for field, array in zip(mask_fields(name), arrays, strict=True)}


def best_entries(ids: np.ndarray, scores: np.ndarray, tokenizer: TextTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The best word of each row of predictions ([r, k]) and its score, where entries of one word are added up.

    Vocabularies hold a word with and without the space before it; to a reader they are one. Returns [r] int32,
    an entry for the word, and [r] float32.
    """
    best, total = ids[:, 0].copy(), scores[:, 0].copy()
    groups = tokenizer.same_words(ids)
    ordered = np.sort(groups, axis=1)
    several = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(several):
        order = np.argsort(groups[several], axis=1, kind="stable")
        word = np.take_along_axis(groups[several], order, axis=1)
        score = np.take_along_axis(scores[several], order, axis=1)
        # Each run of one word within a row is a segment.
        new = np.ones(word.shape, bool)
        new[:, 1:] = word[:, 1:] != word[:, :-1]
        starts = np.flatnonzero(new)
        sums = np.zeros(word.size, np.float32)
        sums[starts] = np.add.reduceat(score.ravel(), starts)
        winner = sums.reshape(word.shape).argmax(axis=1)
        line = np.arange(len(several))
        best[several] = np.take_along_axis(ids[several], order, axis=1)[line, winner]
        total[several] = sums.reshape(word.shape)[line, winner]
    return best, total
