"""Predictions of texts as bytes, for texts that come again."""

import numpy as np

from secbatch.models.sequences import spans
from secbatch.models.windows import MaskedTexts

_FACTS = 3  # in front of a text's predictions: masks, masks seen, truncated


def packed_masks(
    texts: MaskedTexts, ids: np.ndarray, scores: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of the texts `which` [u] bool, one after another, and the length of each.

    `ids` [M, k] int32 and `scores` [M, k] float32: the predictions of all u texts, text by text.
    """
    k = ids.shape[1]
    seen = texts.seen[which]
    sizes = _FACTS + 2 * k * seen  # in words of four bytes
    starts = np.cumsum(sizes) - sizes
    words = np.empty(int(sizes.sum()), np.int32)
    words[starts], words[starts + 1] = texts.mask_counts[which], seen
    words[starts + 2] = texts.truncated[which]
    masks = np.repeat(which, texts.seen)
    words[spans(starts + _FACTS, k * seen)] = ids[masks].ravel()
    words[spans(starts + _FACTS + k * seen, k * seen)] = np.ascontiguousarray(scores[masks]).view(np.int32).ravel()
    return words.view(np.uint8), sizes * 4


def with_known_masks(
    texts: MaskedTexts, ids: np.ndarray, scores: np.ndarray, known: list[bytes]
) -> tuple[MaskedTexts, np.ndarray, np.ndarray]:
    """The computed texts and their predictions, and behind them those of `known`."""
    k = ids.shape[1]
    words = np.frombuffer(b"".join(known), np.int32)
    sizes = np.array([len(one) // 4 for one in known])
    starts = np.cumsum(sizes) - sizes
    seen = words[starts + 1].astype(np.int64)
    more = MaskedTexts(
        texts.sequences,
        np.concatenate([texts.mask_counts, words[starts]]),
        np.concatenate([texts.seen, seen]),
        np.concatenate([texts.truncated, words[starts + 2] != 0]),
    )
    known_ids = words[spans(starts + _FACTS, k * seen)].reshape(-1, k)
    known_scores = words[spans(starts + _FACTS + k * seen, k * seen)].view(np.float32).reshape(-1, k)
    return more, np.concatenate([ids, known_ids]), np.concatenate([scores, known_scores])
