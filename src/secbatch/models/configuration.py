"""The configuration of a model: read as data, refused where it asks for code."""

import json
from typing import Any

from secbatch.errors import ModelError
from secbatch.models.resolved import ResolvedModel
from secbatch.models.transformers_calls import explained, quiet

MOST_LAYERS = 2_000  # the deepest models have a thousand
MOST_LABELS = 1_000_000
_LAYERS = ("layers", "layer", "groups", "group_num", "blocks", "block_sizes", "experts")  # how names of counts end


def load_config(resolved: ResolvedModel) -> Any:
    """The model's configuration. Raises ModelError when it is missing, broken, or asks to run code."""
    raw = _read_json(resolved, "config.json")
    with quiet():
        from transformers import CONFIG_MAPPING, AutoConfig

        kind = raw.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            if "auto_map" in raw:
                raise ModelError(
                    f"model {resolved.name} brings code of its own (auto_map in config.json), which is never run;"
                    " use a model whose architecture transformers knows"
                )
            known = f"'{kind}'" if kind else "missing"
            raise ModelError(
                f"model {resolved.name}: the model_type in {resolved.folder / 'config.json'} is {known},"
                " which this version of transformers does not know"
            )
        with explained(resolved, "its config.json"):
            _refuse_other_files(resolved, raw)
            _refuse_kernels(resolved, raw)
            _refuse_endless_layers(resolved, raw)
            config = AutoConfig.from_pretrained(resolved.folder, trust_remote_code=False, local_files_only=True)
            _check(config)
        return config


def text_config(config: Any) -> Any:
    """What a configuration says of the text: all of it, or, of a model that also takes images or sound, a part."""
    try:
        return config.get_text_config()
    except ValueError:  # there are several such parts
        return config


def padding_id(config: Any) -> int | None:
    """The token that a model itself takes for padding, if any."""
    return getattr(text_config(config), "pad_token_id", None)


def padding_moves_tokens(config: Any) -> bool:
    """Whether padding changes what a text's tokens look at, where a trial need not show it.

    Reformer sorts tokens into chunks, in texts that are longer than any trial; DeepSeek V3.2 and others look at the
    keys with the best scores, and of equal ones at those in certain columns. ConvBERT's convolutions reach beyond a
    text's end, by as little as bfloat16 rounds where its weights are small.
    """
    return config.model_type in ("reformer", "convbert") or getattr(text_config(config), "index_topk", None) is not None


def changes_beyond(config: Any) -> int | None:
    """Tokens of a text beyond which a model works in another way; None: it always works in the same.

    In transformers the longest text of a batch decides for all. With LongRoPE (Ding et al. 2024, arXiv:2402.13753;
    Phi-3 and its kin) all positions are turned in another way, and BigBird (Zaheer et al. 2020, arXiv:2007.14062) looks
    at some blocks of keys instead of all.
    """
    own = text_config(config)
    if getattr(own, "attention_type", None) == "block_sparse":
        return int((5 + 2 * own.num_random_blocks) * own.block_size)
    found = getattr(own, "rope_parameters", None) or {}
    several = [found, *(entry for entry in found.values() if isinstance(entry, dict))]  # one for each kind of layer
    kinds = [entry for entry in several if entry.get("rope_type") == "longrope"]
    limits = [entry.get("original_max_position_embeddings") for entry in kinds]
    return min((limit for limit in limits if limit is not None), default=None)


def filling(config: Any) -> int:
    """The tokens to a multiple of which a model fills up a batch by itself: 1 for all but Longformer and its kin.

    They look at tokens a window at a time (Beltagy et al. 2020, arXiv:2004.05150): 3 tokens cost 512.
    """
    window = config.attention_window if config.model_type in ("longformer", "led") else 1
    return max(window) if isinstance(window, list) else int(window)


def _check(config: Any) -> None:
    """Raises, whatever it is, for what transformers takes as it stands and is looked at here."""
    names, problem = config.architectures, getattr(config, "problem_type", None)
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("architectures is no list of names")
    if problem is not None and not isinstance(problem, str):
        raise ValueError("problem_type is no name")
    if not hasattr(text_config(config), "model_type"):
        raise ValueError("text_config is no configuration")
    changes_beyond(config)
    if filling(config) < 1:
        raise ValueError("attention_window is no number of tokens")


def _read_json(resolved: ResolvedModel, name: str) -> dict[str, Any]:
    path = resolved.folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"model {resolved.name}: no {name} in {resolved.folder}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"model {resolved.name}: {path} cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"model {resolved.name}: {path} is no JSON object")
    return value


def _refuse_endless_layers(resolved: ResolvedModel, value: dict[str, Any]) -> None:
    """Layers are made one by one before the first weight is looked for, as many as the file asks for; names of labels
    when it is read."""
    for key, entry in value.items():
        counts = entry if isinstance(entry, list) else [entry]
        most = max((count for count in counts if isinstance(count, int)), default=0)
        if key.endswith(_LAYERS) and most > MOST_LAYERS:
            what = "layers" if "layer" in key else "parts"
            raise ModelError(f"model {resolved.name}: its config.json asks for {most:,} {what} ({key})")
        if key == "num_labels" and most > MOST_LABELS:
            raise ModelError(f"model {resolved.name}: its config.json asks for {most:,} labels ({key})")
        if isinstance(entry, dict):
            _refuse_endless_layers(resolved, entry)


def _refuse_other_files(resolved: ResolvedModel, value: Any) -> None:
    """A config can lead to another one, or to weights, of which nothing is checked and no hash taken."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "configuration_files" or (key == "transformers_weights" and entry != _usual_weights(resolved)):
                raise ModelError(
                    f"model {resolved.name}: its config.json leads to other files ({key}), which are not read; give"
                    " them their usual names and remove the line from the file"
                )
            _refuse_other_files(resolved, entry)


def _usual_weights(resolved: ResolvedModel) -> str | None:
    """The file that weights are read from, where config.json names none."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return next((name for name in names if (resolved.folder / name).is_file()), None)


def _refuse_kernels(resolved: ResolvedModel, value: Any, kernels: str = "") -> None:
    """A config can name attention kernels on the hub, which are code: refuse them. `kernels`: the key above."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _refuse_kernels(resolved, entry, key if "implementation" in key else kernels)
    elif kernels and isinstance(value, str) and "/" in value:
        raise ModelError(
            f"model {resolved.name} asks for code from the hub ({kernels}: {value} in config.json),"
            " which is never run; remove the line from the file"
        )
