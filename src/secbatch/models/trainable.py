"""Weights to a model that can be trained."""

from typing import Any

from secbatch.errors import ModelError, UnfitModelError, counted
from secbatch.models.configuration import load_config
from secbatch.models.load import weight_notices
from secbatch.models.resolved import ResolvedModel
from secbatch.models.transformers_calls import quiet, read_weights


def load_for_training(
    resolved: ResolvedModel, auto_class: str, changes: dict[str, Any], new_head: bool
) -> tuple[Any, bool, tuple[str, ...]]:
    """The model in float32 on the CPU, as transformers' `auto_class`, with `changes` in its configuration.

    Returns the model, whether its head is made anew (by torch's random numbers; only with `new_head`), and notices.
    Raises ModelError when the architecture has no such head, or when weights of its body are missing or do not fit.
    """
    config = load_config(resolved)
    notices = weight_notices(resolved)
    for key, value in changes.items():
        setattr(config, key, value)
    with quiet():
        import torch
        import transformers

        chosen = getattr(transformers, auto_class)
        if type(config) not in chosen._model_mapping:
            raise UnfitModelError(
                f"model {resolved.name} is a {config.model_type} model, of which there is no {auto_class} in"
                " transformers"
            )
        # What has another shape is refused below, by name, unless it is of a head made anew.
        model, info = read_weights(chosen, resolved, config, torch.float32)
    prefix = model.base_model_prefix + "."

    def of_body(key: str) -> bool:
        return key.startswith(prefix) and "pooler" not in key.split(".")

    shapes = [entry for entry in info["mismatched_keys"] if not new_head or of_body(entry[0])]
    if shapes or info["error_msgs"]:
        why = f"{min(shapes)[0]} has another shape" if shapes else info["error_msgs"][0]
        raise ModelError(f"model {resolved.name}: its weights do not fit its config.json ({why})")
    missing = sorted(key for key in info["missing_keys"] if not new_head or of_body(key))
    if missing and any(of_body(key) for key in missing):
        raise ModelError(
            f"model {resolved.name}: {counted(len(missing), 'weight')} {'is' if len(missing) == 1 else 'are'} missing"
            f" from its checkpoint (the first is {missing[0]})"
        )
    if missing:
        raise UnfitModelError(
            f"model {resolved.name} has no trained language-model head ({missing[0]} is not in its checkpoint), which"
            f" {auto_class} needs"
        )
    return model, bool(info["missing_keys"] or info["mismatched_keys"]), notices
