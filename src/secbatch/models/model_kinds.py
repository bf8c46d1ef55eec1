"""Kinds of models by their heads: which classes of transformers they are, and what they can serve as."""

from typing import Any, Literal

from secbatch.errors import UnfitModelError
from secbatch.models.resolved import ResolvedModel

Kind = Literal[
    "masked-lm",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "encoder",
    "seq2seq",
    "causal",
]

# Those of transformers' classes that choose a model by its configuration; the first that knows it is taken.
AUTO_CLASSES = {
    "masked-lm": ("AutoModelForMaskedLM",),
    "sequence-classification": ("AutoModelForSequenceClassification",),
    "token-classification": ("AutoModelForTokenClassification",),
    "question-answering": ("AutoModelForQuestionAnswering",),
    "encoder": ("AutoModel",),
    "seq2seq": ("AutoModelForSeq2SeqLM",),
    # Decoders that also take images or sound answer questions of texts alone.
    "causal": ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"),
}
PURPOSE = {
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


def auto_class(config: Any, kind: Kind) -> Any:
    """The class of transformers that loads models of `kind` with this configuration, None where there is none."""
    import transformers

    classes = (getattr(transformers, name) for name in AUTO_CLASSES[kind])
    return next((one for one in classes if type(config) in one._model_mapping), None)


def model_class(config: Any, kind: Kind) -> Any:
    """The class of transformers that models of `kind` with this configuration have; check_kind comes first."""
    return auto_class(config, kind)._model_mapping[type(config)]


def check_kind(resolved: ResolvedModel, config: Any, kind: Kind) -> None:
    """Raises ModelError when what `config` describes can be no model of `kind`. Loads no weights."""
    if auto_class(config, kind) is None:
        raise UnfitModelError(
            f"model {resolved.name} is a {config.model_type} model and cannot serve as {PURPOSE[kind]}"
        )
    if kind == "causal" and hasattr(config, "is_decoder") and _trained_for_masks(config):
        raise UnfitModelError(
            f"model {resolved.name} was trained to fill masks ({config.architectures[0]}) and cannot serve as"
            f" {PURPOSE[kind]}"
        )


def _trained_for_masks(config: Any) -> bool:
    return bool(config.architectures) and all(name.endswith("ForMaskedLM") for name in config.architectures)


def check_head(resolved: ResolvedModel, config: Any, kind: Kind) -> None:
    """Raises ModelError, before any weights are read, when the configuration names a model with another head.

    Heads of different purposes can have weights of the same names and shapes.
    """
    names = config.architectures or []
    if names and not any(name.endswith(_CLASS_ENDING[kind]) for name in names):
        other = next((name for name in names if name.endswith(tuple(_CLASS_ENDING.values()))), None)
        if other is not None:
            raise UnfitModelError(without_head(resolved, kind, f"it is a {other}"))


def without_head(resolved: ResolvedModel, kind: Kind, why: str) -> str:
    """The sentence on a checkpoint that lacks the head of `kind`. `why`: how that is known."""
    head, remedy = _HEAD[kind]
    return f"model {resolved.name} has no trained {head} ({why}), so it cannot serve as {PURPOSE[kind]}{remedy}"
