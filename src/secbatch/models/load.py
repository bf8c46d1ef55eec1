"""Model files to tokenizers and models on a device: weights only, never code."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from secbatch.errors import ModelError
from secbatch.models.content_hash import VOCABULARY_FILES, weight_files
from secbatch.models.device import Compute
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer import TextTokenizer

Kind = Literal[
    "masked-lm",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "encoder",
    "seq2seq",
    "causal",
]

_AUTO_CLASS = {
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "encoder": "AutoModel",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "causal": "AutoModelForCausalLM",
}
_PURPOSE = {
    "masked-lm": "a masked language model (fill-mask)",
    "sequence-classification": "a classifier of texts (classify)",
    "token-classification": "a tagger of tokens (ner)",
    "question-answering": "a reader that finds answers in a text (qa)",
    "encoder": "an encoder (embed)",
    "seq2seq": "a sequence-to-sequence model (seq2seq, chat)",
    "causal": "a decoder-only language model (chat)",
}
_CLASS_ENDING = {
    "masked-lm": "ForMaskedLM",
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}
# What a checkpoint without the head lacks, and what to do about it.
_HEAD = {
    "masked-lm": ("language-model head", ""),
    "sequence-classification": (
        "classification head",
        "; name a model fine-tuned for classification, or, for a masked language model, give the task `labels` and a"
        " `template` with <mask>",
    ),
    "token-classification": ("token-classification head", "; name a model fine-tuned to tag tokens"),
    "question-answering": ("question-answering head", "; name a model fine-tuned for extractive question answering"),
    "seq2seq": ("language-model head", ""),
    "causal": ("language-model head", ""),
}
# Position embeddings of these start after the padding index, so that many positions are never used.
_OFFSET_POSITIONS = frozenset(
    (
        *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text"),
        *("xmod", "longformer", "mpnet", "luke", "mluke", "ibert", "lilt", "esm"),
    )
)
_MANY_POSITIONS = 8192  # for models without a bound of their own (relative positions)


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, in evaluation mode."""

    model: Any  # transformers.PreTrainedModel
    config: Any  # transformers.PretrainedConfig
    notices: tuple[str, ...] = ()  # what a user should know, one sentence each


def load_config(resolved: ResolvedModel) -> Any:
    """The model's configuration. Raises ModelError when it is missing, broken, or asks to run code."""
    raw = _read_json(resolved, "config.json")
    with _quiet():
        from transformers import CONFIG_MAPPING, AutoConfig

        kind = raw.get("model_type")
        if kind not in CONFIG_MAPPING:
            if "auto_map" in raw:
                raise ModelError(
                    f"model {resolved.name} brings code of its own (auto_map in config.json), which is"
                    " never run;"
                    " use a model whose architecture transformers knows"
                )
            known = f"'{kind}'" if kind else "missing"
            raise ModelError(
                f"model {resolved.name}: the model_type in {resolved.folder / 'config.json'} is {known},"
                " which this version of transformers does not know"
            )
        _refuse_kernels(resolved, raw)
        with _explained(resolved, "its config.json"):
            return AutoConfig.from_pretrained(resolved.folder, trust_remote_code=False, local_files_only=True)


def load_tokenizer(resolved: ResolvedModel) -> TextTokenizer:
    """The model's tokenizer. Raises ModelError when its files are missing or broken."""
    config = load_config(resolved)
    if not any((resolved.folder / name).is_file() for name in VOCABULARY_FILES):
        # Without one, transformers makes a tokenizer that knows no word, and says nothing.
        raise ModelError(
            f"model {resolved.name}: no tokenizer (tokenizer.json, or vocab.json and merges.txt) in {resolved.folder}"
        )
    with _quiet():
        from transformers import AutoTokenizer

        with _explained(resolved, "its tokenizer"):
            hf = AutoTokenizer.from_pretrained(resolved.folder, trust_remote_code=False, local_files_only=True)
        if not hf.is_fast:
            raise ModelError(
                f"model {resolved.name}: its tokenizer ({type(hf).__name__}) has no form for the tokenizers"
                " library;"
                " save it with a tokenizer.json"
            )
        if _lost_lstrip(resolved, hf):
            from tokenizers import AddedToken

            mask = AddedToken(hf.mask_token, lstrip=True, special=True, normalized=False)
            with _explained(resolved, "its tokenizer"):
                hf = AutoTokenizer.from_pretrained(
                    resolved.folder, trust_remote_code=False, local_files_only=True, mask_token=mask
                )
    with _explained(resolved, "its tokenizer"):
        return TextTokenizer(hf, max_positions(config, hf))


def _lost_lstrip(resolved: ResolvedModel, hf: Any) -> bool:
    """Whether the mask should swallow the space before it and does not.

    Byte-level vocabularies write the space into the word ("Ġmalware"), so models saw masks without a space
    before them. A tokenizer.json says so itself; one built of vocab.json and merges.txt loses it.
    """
    if hf.mask_token is None or (resolved.folder / "tokenizer.json").is_file():
        return False
    from tokenizers.pre_tokenizers import ByteLevel

    mask = hf.backend_tokenizer.get_added_tokens_decoder().get(hf.mask_token_id)
    return isinstance(hf.backend_tokenizer.pre_tokenizer, ByteLevel) and mask is not None and not mask.lstrip


def max_positions(config: Any, hf: Any) -> int:
    """How many tokens one sequence can have, special tokens counted."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    bound = next(
        (
            value
            for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
            if isinstance(value := getattr(text, name, None), int) and value > 0
        ),
        None,
    )
    if bound is not None and config.model_type in _OFFSET_POSITIONS:
        # MPNet counts them from one place, whatever its padding.
        bound -= 2 if config.model_type == "mpnet" else (config.pad_token_id or 0) + 1
    stated = hf.model_max_length if hf.model_max_length < 1_000_000 else None
    known = [value for value in (bound, stated) if value]
    return int(min(known)) if known else _MANY_POSITIONS


def load_model(resolved: ResolvedModel, kind: Kind, compute: Compute) -> LoadedModel:
    """Brings the weights to the device.

    Raises ModelError when the folder has no weights or broken ones, when the architecture is not of `kind`,
    or when weights that `kind` needs are missing from the checkpoint (they would be random).
    """
    config = load_config(resolved)
    notices = _weight_notices(resolved)
    with _quiet():
        import transformers

        check_kind(resolved, config, kind)
        auto_class = getattr(transformers, _AUTO_CLASS[kind])
        if kind == "causal" and hasattr(config, "is_decoder") and _trained_for_masks(config):
            raise ModelError(
                f"model {resolved.name} was trained to fill masks ({config.architectures[0]}) and cannot"
                " serve as"
                f" {_PURPOSE[kind]}"
            )
        with _explained(resolved, "its weights"):
            model, info = auto_class.from_pretrained(
                resolved.folder,
                config=config,
                dtype=compute.torch_dtype,
                trust_remote_code=False,
                local_files_only=True,
                weights_only=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
    _check_complete(resolved, kind, model, info)
    model.eval().requires_grad_(False)
    with _explained(resolved, f"moving it to {compute.device}"):
        model.to(compute.device)
    return LoadedModel(model, config, notices)


def model_class(config: Any, kind: Kind) -> Any:
    """The class of transformers that models of `kind` with this configuration have; check_kind comes first."""
    import transformers

    return getattr(transformers, _AUTO_CLASS[kind])._model_mapping[type(config)]


def check_kind(resolved: ResolvedModel, config: Any, kind: Kind) -> None:
    """Raises ModelError when no model of `kind` has the architecture that `config` describes. Loads no weights."""
    import transformers

    if type(config) not in getattr(transformers, _AUTO_CLASS[kind])._model_mapping:
        raise ModelError(f"model {resolved.name} is a {config.model_type} model and cannot serve as {_PURPOSE[kind]}")


def check_head(resolved: ResolvedModel, config: Any, kind: Kind) -> None:
    """Raises ModelError, before any weights are read, when the configuration names a model with another head.

    Heads of different purposes can have weights of the same names and shapes.
    """
    names = config.architectures or []
    if names and not any(name.endswith(_CLASS_ENDING[kind]) for name in names):
        other = next((name for name in names if name.endswith(tuple(_CLASS_ENDING.values()))), None)
        if other is not None:
            raise ModelError(_without_head(resolved, kind, f"it is a {other}"))


def check_vocabulary(resolved: ResolvedModel, tokenizer: TextTokenizer, model: Any) -> None:
    """Raises ModelError when the tokenizer can give ids for which the model has no embedding."""
    entries, embeddings = tokenizer.top_id + 1, model.get_input_embeddings().weight.shape[0]
    if entries > embeddings:
        raise ModelError(
            f"model {resolved.name}: its tokenizer has {entries} entries and its weights only {embeddings};"
            " they do not belong together"
        )


def _weight_notices(resolved: ResolvedModel) -> tuple[str, ...]:
    files = weight_files(resolved.folder)
    if not files:
        raise ModelError(
            f"model {resolved.name}: no weights (model.safetensors or pytorch_model.bin) in {resolved.folder}"
        )
    if files[0].suffix == ".safetensors":
        return ()
    return (
        f"the weights of {resolved.name} are a pickle ({files[0].name}); they were read with torch's"
        " weights-only"
        " loader, which runs no code, but a safetensors file is safer and loads faster",
    )


def _trained_for_masks(config: Any) -> bool:
    return bool(config.architectures) and all(name.endswith("ForMaskedLM") for name in config.architectures)


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
        raise ModelError(_without_head(resolved, kind, f"{missing[0]} is not in its checkpoint"))
    raise ModelError(
        f"model {resolved.name}: {len(missing)} weights are missing from its checkpoint (the first is {missing[0]})"
    )


def _without_head(resolved: ResolvedModel, kind: Kind, why: str) -> str:
    head, remedy = _HEAD[kind]
    return f"model {resolved.name} has no trained {head} ({why}), so it cannot serve as {_PURPOSE[kind]}{remedy}"


def _shape(shape: Any) -> str:
    return " × ".join(map(str, shape)) or "one number"


def _read_json(resolved: ResolvedModel, name: str) -> dict[str, Any]:
    path = resolved.folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"model {resolved.name}: no {name} in {resolved.folder}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"model {resolved.name}: {path} cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"model {resolved.name}: {path} is no JSON object")
    return value


def _refuse_kernels(resolved: ResolvedModel, value: Any) -> None:
    """A config can name attention kernels on the hub, which are code: refuse them."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if "implementation" in key and isinstance(entry, str) and "/" in entry:
                raise ModelError(
                    f"model {resolved.name} asks for code from the hub ({key}: {entry} in config.json),"
                    " which is never"
                    " run; remove the line from the file"
                )
            _refuse_kernels(resolved, entry)


@contextmanager
def _explained(resolved: ResolvedModel, what: str) -> Iterator[None]:
    """Turns whatever a loading library raises into one sentence that names the model."""
    try:
        yield
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own words advise to read it with the loader that runs its code
        raise ModelError(
            f"model {resolved.name}: {what} in {resolved.folder} are a pickle that is broken or holds more than"
            " tensors, which could run code and is never read; use a safetensors file"
        ) from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        detail = lines[0][:300] if lines else type(error).__name__
        raise ModelError(f"model {resolved.name}: {what} in {resolved.folder} cannot be loaded ({detail})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines, warnings or progress bars of transformers."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def quiet() -> Any:
    """A context without log lines, warnings or progress bars of transformers."""
    return _quiet()


def load_for_training(
    resolved: ResolvedModel, auto_class: str, changes: dict[str, Any], new_head: bool
) -> tuple[Any, bool, tuple[str, ...]]:
    """The model in float32 on the CPU, as transformers' `auto_class`, with `changes` in its configuration.

    Returns the model, whether its head is made anew (by torch's random numbers; only with `new_head`), and notices.
    Raises ModelError when the architecture has no such head, or when weights of its body are missing or do not fit.
    """
    config = load_config(resolved)
    notices = _weight_notices(resolved)
    for key, value in changes.items():
        setattr(config, key, value)
    with _quiet():
        import torch
        import transformers

        chosen = getattr(transformers, auto_class)
        if type(config) not in chosen._model_mapping:
            raise ModelError(
                f"model {resolved.name} is a {config.model_type} model, of which there is no {auto_class} in"
                " transformers"
            )
        with _explained(resolved, "its weights"):
            model, info = chosen.from_pretrained(
                resolved.folder,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                weights_only=True,
                ignore_mismatched_sizes=True,  # refused below, by name, unless they are of a head made anew
                output_loading_info=True,
            )
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
            f"model {resolved.name}: {len(missing)} weights are missing from its checkpoint (the first is {missing[0]})"
        )
    if missing:
        raise ModelError(
            f"model {resolved.name} has no trained language-model head ({missing[0]} is not in its checkpoint), which"
            f" {auto_class} needs"
        )
    return model, bool(info["missing_keys"] or info["mismatched_keys"]), notices
