"""A model in RoBERTa-base's shape for benchmarks of encoders, and how much arithmetic its linear layers hold."""

from pathlib import Path
from typing import Any

import parity_shapes

import secbatch.builtin

LAYERS, HIDDEN, WIDE = 12, 768, 3072


def model_tokenizer(folder: Path | None) -> Any:
    """A transformers tokenizer from a folder; None: the built-in model's."""
    from transformers import AddedToken, AutoTokenizer, RobertaTokenizer

    if folder is None:
        return AutoTokenizer.from_pretrained(Path(next(iter(secbatch.builtin.__path__))) / "mlm")
    if (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder)
    # A RoBERTa vocabulary alone says nothing of its mask, which takes the space before it.
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    return RobertaTokenizer.from_pretrained(folder, mask_token=mask)


def roberta_base(tokenizer: Any, folder: Path) -> int:
    """Saves random weights in the shape of RoBERTa-base (and so of SecureBERT); returns the vocabulary's size."""
    parity_shapes.securebert_shape(tokenizer, folder, LAYERS, sharpened=True)
    return max(parity_shapes.SECUREBERT_ENTRIES, len(tokenizer))


def model_flops(tokens: int) -> float:
    """Of the linear layers of the encoder for `tokens` real tokens, as the model defines it."""
    return 2.0 * tokens * LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * WIDE)


def head_flops(masks: int, vocabulary: int) -> float:
    """Of the vocabulary head at `masks` positions."""
    return 2.0 * masks * (HIDDEN * HIDDEN + HIDDEN * vocabulary)


def fill_mask_flops(tokens: int, masks: int, vocabulary: int) -> float:
    """What is left when the last layer is computed at masks only, and the head at these."""
    last = masks * (HIDDEN * HIDDEN + 2 * HIDDEN * WIDE) + tokens * 3 * HIDDEN * HIDDEN
    return model_flops(tokens) * (LAYERS - 1) / LAYERS + 2.0 * last + head_flops(masks, vocabulary)
