"""A checkpoint of BERT or RoBERTa to plain modules, where it holds what these want and nothing that is not known.

All others are for transformers, and for its words on what is wrong with them.
"""

import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secbatch.models.bert_modules import (
    ACTIVATIONS,
    PREFIXES,
    BaseModel,
    MaskedLM,
    QuestionAnswerer,
    SequenceClassifier,
    TokenClassifier,
)
from secbatch.models.content_hash import weight_files
from secbatch.models.masked_lm_head_packed import head_parts
from secbatch.models.model_kinds import Kind
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.resolved import ResolvedModel
from secbatch.models.transformers_calls import explained, refuse_shards_of_training

_MODELS: dict[Kind, type[nn.Module]] = {
    "encoder": BaseModel,
    "masked-lm": MaskedLM,
    "sequence-classification": SequenceClassifier,
    "token-classification": TokenClassifier,
    "question-answering": QuestionAnswerer,
}
# Buffers of earlier versions, a pooler that no head asks for, and heads of other kinds.
_NOT_ASKED_FOR = re.compile(
    r"((bert|roberta)\.)?(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias))"
    r"|(cls|lm_head|classifier|qa_outputs)\..*"
)


def read_bert(resolved: ResolvedModel, config: Any, kind: Kind, dtype: torch.dtype) -> Any | None:
    """A model of bert_modules.py; None where transformers has to load it. Raises ModelError for broken files."""
    files = weight_files(resolved.folder)
    if kind not in _MODELS or len(files) != 1 or not _known(config):
        return None
    if kind == "question-answering" and config.num_labels != 2:
        return None
    with explained(resolved, "its weights"):
        refuse_shards_of_training(resolved)
        with torch.device("meta"):  # takes no memory
            model: Any = _MODELS[kind](config)
        tensors = _with_layers_apart(files[0])
        weights = None if tensors is None else _weights(tensors, model, config, kind)
        if weights is None:
            return None
        brought = cache(lambda weight: weight.to(dtype))  # the vocabulary's once, which two names stand for
        model.load_state_dict({name: brought(weight) for name, weight in weights.items()}, assign=True)
        if kind == "masked-lm":
            head_parts(model)[3].weight = model.get_input_embeddings().weight
    return model


def _known(config: Any) -> bool:
    """Whether the configuration asks for nothing but what bert_modules.py does."""
    asked = (
        getattr(config, "position_embedding_type", None) in (None, "absolute"),
        getattr(config, "quantization_config", None) is None,
        not getattr(config, "pruned_heads", None),
    )
    if config.model_type not in PREFIXES or not all(asked):
        return False
    if config.is_decoder or config.add_cross_attention or config.hidden_act not in ACTIVATIONS:
        return False
    if config.pad_token_id is None:
        return False
    places = min(config.vocab_size, config.max_position_embeddings)
    divided = config.num_attention_heads > 0 and config.hidden_size % config.num_attention_heads == 0
    return bool(config.tie_word_embeddings) and divided and 0 <= config.pad_token_id < places


def _with_layers_apart(file: Path) -> Mapping[str, torch.Tensor] | None:
    """As `_tensors`; the layers' matrices are mapped by themselves, and are let go of once they are laid out anew."""
    tensors = _tensors(file)
    try:
        again = _tensors(file)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return tensors  # the process's address space (ulimit -v) has room for one mapping
    if tensors is None or again is None:
        return None
    matrices = {name: again[name] for name, tensor in tensors.items() if ".layer." in name and tensor.dim() == 2}
    return {**tensors, **matrices}


def _tensors(file: Path) -> Mapping[str, torch.Tensor] | None:
    """What a file of weights holds, mapped and not yet read; None where it is no plain dictionary of tensors."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            return {name: opened.get_tensor(name) for name in names}
    if not zipfile.is_zipfile(file):
        return None
    held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    plain = isinstance(held, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in held.items()
    )
    return held if plain else None


def _weights(
    tensors: Mapping[str, torch.Tensor], model: Any, config: Any, kind: Kind
) -> dict[str, torch.Tensor] | None:
    """The tensors by the names of `model`'s, which are on no device; None where one is missing, another or unknown."""
    prefix = f"{PREFIXES[config.model_type]}."
    below = kind == "encoder" and any(name.startswith(prefix) for name in tensors)
    wanted = model.state_dict()
    found: dict[str, torch.Tensor] = {}
    others: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(prefix) if below else name
        into = found if own in wanted and (own != name or not below) else others
        into[own if into is found else name] = tensor
    if kind == "masked-lm" and not _tied(found, others, config):
        return None
    if found.keys() != wanted.keys() or not all(map(_NOT_ASKED_FOR.fullmatch, others)):
        return None
    return found if all(_fits(found[name], wanted[name]) for name in wanted) else None


def _tied(found: dict[str, torch.Tensor], others: dict[str, torch.Tensor], config: Any) -> bool:
    """Puts the vocabulary head's weights to `found`, of which files hold one copy or two; false where these differ."""
    head = "cls.predictions" if config.model_type == "bert" else "lm_head"
    words = found.get(f"{PREFIXES[config.model_type]}.embeddings.word_embeddings.weight")
    for name, one in ((f"{head}.decoder.weight", words), (f"{head}.decoder.bias", others.get(f"{head}.bias"))):
        if one is None:
            return False
        other = found.setdefault(name, one)
        if other.data_ptr() != one.data_ptr() and not (other.dtype == one.dtype and torch.equal(other, one)):
            return False
        found[name] = one
    return True


def _fits(tensor: torch.Tensor, wanted: torch.Tensor) -> bool:
    return tensor.shape == wanted.shape and tensor.layout == torch.strided and tensor.is_floating_point()
