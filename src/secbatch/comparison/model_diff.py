"""Two models on the same unlabelled rows: where they agree, and how what they say has shifted."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from secbatch.comparison.diff_answers import different_answers
from secbatch.comparison.diff_labels import different_labels
from secbatch.comparison.diff_spans import different_spans
from secbatch.comparison.diff_vectors import different_vectors
from secbatch.comparison.diff_words import TOP_K, different_words
from secbatch.comparison.found import Found
from secbatch.comparison.predictions import Predicted, Progress, predict
from secbatch.comparison.sample import Sample, as_table
from secbatch.errors import JobError, ModelError
from secbatch.models.configuration import load_config
from secbatch.models.device import Compute
from secbatch.models.resolve import resolve
from secbatch.redaction import redacted

SCHEMA = 1  # of the JSON; raised when a key changes its meaning
Kind = Literal["fill-mask", "embed", "classify", "ner", "qa", "seq2seq"]
_HEADS: dict[str, Kind] = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "ner",
    "ForQuestionAnswering": "qa",
    "ForConditionalGeneration": "seq2seq",
    "MTModel": "seq2seq",  # Marian
    "EncoderDecoderModel": "seq2seq",
}


@dataclass(frozen=True)
class ModelsDiff:
    """All that `secbatch models diff` has to tell."""

    kind: Kind
    names: tuple[str, str]
    abouts: tuple[Mapping[str, Any], Mapping[str, Any]]
    path: str
    rows: int
    rows_of_input: int
    seed: int
    found: Found
    notices: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Undefined figures are null."""
        found = asdict(self.found)
        del found["notices"]
        return {
            "schema": SCHEMA,
            "task": self.kind,
            "models": [dict(one) for one in self.abouts],
            "input": redacted(self.path),
            "rows": self.rows,
            "rows_of_input": self.rows_of_input,
            "seed": self.seed,
            **found,
            "notices": list(map(redacted, self.notices)),
        }


def kind_of(model: str) -> Kind:
    """The task that a model is made for, as its configuration says; an encoder without a head embeds.

    Raises JobError for a model that is made for something else.
    """
    name = str((load_config(resolve(model)).architectures or ("Model",))[0])
    kind = next((kind for ending, kind in _HEADS.items() if name.endswith(ending)), None)
    if kind is not None:
        return kind
    if name.endswith("Model"):
        return "embed"
    raise JobError(
        f"model {model} is a {name}, which `models diff` knows no figures for; --task embed compares encoders"
    )


def common_kind(first: str, second: str) -> Kind:
    """Raises JobError for models that are made for different tasks."""
    kinds = kind_of(first), kind_of(second)
    if kinds[0] != kinds[1]:
        raise JobError(
            f"model {first} is made for {kinds[0]} and {second} for {kinds[1]}; say what to compare them in with --task"
        )
    return kinds[0]


def diff_models(
    models: tuple[str, str],
    names: tuple[str, str],
    kind: Kind,
    sample: Sample,
    path: str,
    compute: Compute,
    seed: int = 0,
    progress: Progress | None = None,
) -> ModelsDiff:
    """Runs both models over the sample, for qa one with questions. `names`: as examples and tables call them."""
    if resolve(models[0]).weights_hash == resolve(models[1]).weights_hash:
        raise ModelError(f"models {models[0]} and {models[1]} have the same weights, so they say the same")
    settings: dict[str, Any] = {"type": kind, "text": "text"}
    if kind == "qa":
        settings = {"type": kind, "question": "question", "context": "text"}
    if kind == "fill-mask":
        settings["top_k"] = TOP_K
    first, second = (predict(model, settings, as_table(sample), compute, progress) for model in models)
    found = _KINDS[kind](first, second, sample, seed)
    notices = [*sample.notices, *first.notices, *second.notices, *found.notices]
    for name, one in zip(names, (first, second), strict=True):
        if one.errors:
            notices.append(f"model {name} could not do {len(one.errors)} of {len(sample.texts)} rows")
    return ModelsDiff(
        kind,
        names,
        (first.about, second.about),
        path,
        len(sample.texts),
        sample.rows,
        seed,
        found,
        tuple(dict.fromkeys(notices)),
    )


_KINDS: dict[Kind, Callable[[Predicted, Predicted, Sample, int], Found]] = {
    "fill-mask": different_words,
    "embed": different_vectors,
    "classify": different_labels,
    "ner": different_spans,
    "qa": different_answers,
    "seq2seq": different_answers,
}
