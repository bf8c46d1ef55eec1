"""Whether two models differ in nothing but their heads: what lies below was not trained with them."""

import hashlib
from functools import lru_cache
from typing import Any

from secbatch.models.configuration import load_config
from secbatch.models.content_hash import weight_files
from secbatch.models.resolved import ResolvedModel

# What a configuration says of a model's head, its training and its files, and not of its base.
_NOT_OF_THE_BASE = frozenset(
    (
        *(
            "architectures",
            "id2label",
            "label2id",
            "num_labels",
            "problem_type",
            "finetuning_task",
            "classifier_dropout",
        ),
        *("classifier_pooling", "classifier_activation", "classifier_bias", "seq_classif_dropout", "qa_dropout"),
        *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "tie_word_embeddings"),
    )
)


def same_base(one: ResolvedModel, other: ResolvedModel) -> bool:
    """Whether the hidden states of one model are those of the other: same tokenizer, architecture and weights.

    False where that cannot be seen in the files (no safetensors). Raises ModelError for a broken configuration.
    """
    if one.tokenizer_hash != other.tokenizer_hash or one.folder == other.folder:
        return False
    if _architecture(one) != _architecture(other):
        return False
    hashes = [_base_hash(model) for model in (one, other)]
    return hashes[0] is not None and hashes[0] == hashes[1]


def _architecture(model: ResolvedModel) -> dict[str, Any]:
    facts = load_config(model).to_dict()
    return {name: value for name, value in facts.items() if name not in _NOT_OF_THE_BASE}


@lru_cache(maxsize=64)
def _base_hash(model: ResolvedModel) -> str | None:
    """sha256 over names, types, shapes and values of the base's tensors; None for files that are no safetensors."""
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModel

    base: Any = AutoModel._model_mapping.get(type(load_config(model)), None)
    files = weight_files(model.folder)
    if base is None or any(file.suffix != ".safetensors" for file in files):
        return None
    prefix = f"{getattr(base, 'base_model_prefix', '')}."
    digests: dict[str, str] = {}
    try:
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                names = list(tensors.keys())
                for name in names:
                    value = tensors.get_tensor(name).contiguous()
                    about = f"{value.dtype} {tuple(value.shape)} ".encode()
                    values = value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b""
                    digests[name] = hashlib.sha256(about + bytes(values)).hexdigest()
    except (OSError, SafetensorError):
        return None  # said where the model is loaded
    below = {name: digest for name, digest in digests.items() if name.startswith(prefix)} or digests
    # A pooler is trained with a head, and nothing here reads the base's own.
    lines = [
        f"{name.removeprefix(prefix)} {digest}"
        for name, digest in sorted(below.items())
        if not {"pooler", "position_ids"} & set(name.split("."))
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
