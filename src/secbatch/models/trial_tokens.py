"""Tokens to try a model on before it sees a text: ordinary ones, no image's place and no padding."""

from typing import Any

import numpy as np

from secbatch.models.configuration import text_config


def trial_tokens(model: Any, count: int) -> np.ndarray:
    """[count] int64: entries of the model's table of embeddings, no two neighbours alike where it has many."""
    entries = int(model.get_input_embeddings().weight.shape[0])
    ordinary = np.setdiff1d(np.arange(entries), list(special_tokens(model.config)))
    ordinary = ordinary if len(ordinary) else np.arange(entries)
    return ordinary[np.arange(1, count + 1) * 7919 % len(ordinary)]


def special_tokens(config: Any) -> set[int]:
    """Tokens that stand for something else than text: those whose ids a configuration names."""
    found: set[int] = set()
    for part in (config, text_config(config)):
        for name, value in part.to_dict().items():
            if name.endswith(("token_id", "token_ids", "token_index")):
                found.update(one for one in (value if isinstance(value, list | tuple) else [value]) if type(one) is int)
    return found
