"""The words that a fill-mask task is told to rank."""

import numpy as np

from secbatch.errors import JobError
from secbatch.models.tokenizer import TextTokenizer


def target_ids(words: tuple[str, ...], tokenizer: TextTokenizer, key: str, model: str) -> np.ndarray:
    """The vocabulary entry of each word as it stands in running text, with the space before it: [t] int64, distinct.

    Raises JobError, under the job's `key`, for words that are no single entry: cut to their first piece they
    would be other words, so they are named with their pieces.
    """
    if not words:
        raise JobError(f"{key} is empty: name at least one word, or take it out to rank all words")
    ids, refused = [], []
    for word in words:
        pieces = tokenizer.encode([f" {word.strip()}"], special_tokens=False)[0].tolist() if word.strip() else []
        if len(pieces) == 1 and pieces[0] not in (tokenizer.hf.unk_token_id, tokenizer.mask_id):
            ids.append(pieces[0])
        else:
            refused.append(f"'{word}' {_explain(pieces, tokenizer)}")
    if refused:
        raise JobError(
            f"{key}: only words that are single entries of the vocabulary of {model} can be ranked for one"
            " <mask>;"
            f" take out, or say by other words, {', '.join(refused)}"
        )
    return np.array(list(dict.fromkeys(ids)), np.int64)


def _explain(pieces: list[int], tokenizer: TextTokenizer) -> str:
    if not pieces:
        return "(empty)"
    if tokenizer.mask_id in pieces:
        return "(the mask itself)"
    if tokenizer.hf.unk_token_id in pieces:
        return "(unknown to it)"
    return f"({' | '.join(tokenizer.words(np.array(pieces)))})"
