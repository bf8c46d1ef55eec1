"""Weights to a model on a device: tensors only, never code."""

import re
from dataclasses import dataclass
from typing import Any

from secbatch.errors import ModelError, UnfitModelError, cause, counted
from secbatch.models.bert_checkpoint import read_bert
from secbatch.models.block_sparse import keep_block_sparse
from secbatch.models.configuration import load_config, text_config
from secbatch.models.content_hash import weight_files
from secbatch.models.device import Compute
from secbatch.models.model_kinds import Kind, auto_class, check_kind, without_head
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.transformers_calls import explained, quiet, read_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, in evaluation mode."""

    model: Any  # transformers.PreTrainedModel, or what bert_modules.py has in its place
    config: Any  # transformers.PretrainedConfig
    notices: tuple[str, ...] = ()  # what a user should know, one sentence each


def load_model(resolved: ResolvedModel, kind: Kind, compute: Compute) -> LoadedModel:
    """Brings the weights to the device.

    Raises ModelError when the folder has no weights or broken ones, when the architecture is not of `kind`,
    or when weights that `kind` needs are missing from the checkpoint (they would be random).
    """
    config = load_config(resolved)
    notices = weight_notices(resolved)
    with quiet():
        check_kind(resolved, config, kind)
        model, info = read_bert(resolved, config, kind, compute.torch_dtype), None
        if model is None:
            model, info = read_weights(auto_class(config, kind), resolved, config, compute.torch_dtype)
    if info is not None:
        _check_complete(resolved, kind, model, info)
        notices = (*notices, *_left_out_layers(resolved, model, info))
    model.eval().requires_grad_(False)
    if kind not in ("seq2seq", "causal"):
        text_config(model.config).use_cache = False  # of a decoder: nothing goes on from where a text ends
    bring_to_device(model, resolved, compute)
    keep_block_sparse(model)
    return LoadedModel(model, config, notices)


def bring_to_device(model: Any, resolved: ResolvedModel, compute: Compute) -> None:
    """Raises ModelError where there is no memory for the weights, or the device fails."""
    from secbatch.models.out_of_memory import is_out_of_memory

    with explained(resolved, f"moving it to {compute.device}"):
        try:
            model.to(compute.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"model {resolved.name}: memory runs out on {compute.description} for its weights ({cause(error)}); see"
                " what else has taken it, or name a smaller model"
            ) from error


def check_vocabulary(resolved: ResolvedModel, tokenizer: TextTokenizer, model: Any) -> None:
    """Raises ModelError when the tokenizer can give ids for which the model has no embedding, or it has none."""
    try:
        embeddings = model.get_input_embeddings().weight.shape[0]
    except (AttributeError, NotImplementedError):
        raise ModelError(
            f"model {resolved.name} is a {model.config.model_type} model without embeddings of tokens, so it cannot"
            " read texts by themselves; name a model of texts"
        ) from None
    entries = tokenizer.top_id + 1
    if entries > embeddings:
        raise ModelError(
            f"model {resolved.name}: its tokenizer has {entries} entries and its weights only {embeddings};"
            " they do not belong together"
        )


def weight_notices(resolved: ResolvedModel) -> tuple[str, ...]:
    """What a user should know of the weights' files, one sentence each. Raises ModelError when there are none."""
    files = weight_files(resolved.folder)
    if not files:
        raise ModelError(
            f"model {resolved.name}: no weights (model.safetensors or pytorch_model.bin) in {resolved.folder}"
        )
    adapter = resolved.folder / "adapter_config.json"
    notices: tuple[str, ...] = ()
    if adapter.is_file():
        notices = (
            f"beside the weights of {resolved.name} lies an adapter ({adapter.name}), which is not used; merge it into"
            " them (peft's merge_and_unload) if it is meant",
        )
    if files[0].suffix == ".safetensors":
        return notices
    return (
        *notices,
        f"the weights of {resolved.name} are a pickle ({files[0].name}); they were read with torch's"
        " weights-only loader,"
        " which runs no code, but a safetensors file is safer and loads faster",
    )


def _check_complete(resolved: ResolvedModel, kind: Kind, model: Any, info: dict[str, Any]) -> None:
    """Weights that the checkpoint lacks would be random: refuse, save for a pooler that nothing here uses."""
    if info["mismatched_keys"]:
        key, has, wanted = min(info["mismatched_keys"])
        raise ModelError(
            f"model {resolved.name}: its weights do not fit its config.json ({key} is {_shape(has)}, but the"
            f" configuration wants {_shape(wanted)})"
        )
    if info["error_msgs"]:
        raise ModelError(f"model {resolved.name}: its weights do not fit its config.json ({info['error_msgs'][0]})")
    missing = sorted(key for key in info["missing_keys"] if not (kind == "encoder" and "pooler" in key.split(".")))
    if not missing:
        return
    prefix = model.base_model_prefix + "."
    # A pooler is the base's by name, but it is trained with the head.
    if kind != "encoder" and not any(key.startswith(prefix) and "pooler" not in key.split(".") for key in missing):
        raise UnfitModelError(without_head(resolved, kind, f"{missing[0]} is not in its checkpoint"))
    raise ModelError(
        f"model {resolved.name}: {counted(len(missing), 'weight')} {'is' if len(missing) == 1 else 'are'} missing"
        f" from its checkpoint (the first is {missing[0]})"
    )


def _left_out_layers(resolved: ResolvedModel, model: Any, info: dict[str, Any]) -> tuple[str, ...]:
    """Says so where the checkpoint has more layers than the configuration: meant or not, it is another model."""
    own = {_NUMBER.sub(".N.", name) for name, _ in model.named_parameters()}
    more = sorted(name for name in info["unexpected_keys"] if _NUMBER.search(name) and _NUMBER.sub(".N.", name) in own)
    if not more:
        return ()
    return (
        f"model {resolved.name}: its config.json names fewer layers than its weights hold ({more[0]} is not used);"
        " see whether the two belong together",
    )


_NUMBER = re.compile(r"\.\d+\.")


def _shape(shape: Any) -> str:
    return " × ".join(map(str, shape)) or "one number"
