"""The job file of `secbatch finetune`: frozen, strict models like those of `secbatch run`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from secbatch.strict import FiniteNumber, Number, Strict

Objective = Literal["masked-lm", "classify", "ner", "qa", "seq2seq"]
METRICS: Mapping[str, tuple[str, ...]] = {
    # The first is the default.
    "masked-lm": ("perplexity", "loss"),
    "classify": ("f1_micro", "f1_macro", "f1_weighted", "accuracy", "loss"),
    "ner": ("f1", "f1_macro", "loss"),
    "qa": ("f1", "exact", "loss"),
    "seq2seq": ("loss", "perplexity"),
}
LOWER_IS_BETTER = frozenset({"loss", "perplexity"})  # all other metrics are better when they are higher
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "masked-lm": ("text",),
    "classify": ("text", "label", "label_delimiter", "labels"),
    "ner": ("text", "spans", "labels"),
    "qa": ("question", "context", "answer", "answer_start"),
    "seq2seq": ("source", "target"),
}
# Hyperparameters that say nothing of an objective.
WITHOUT_MEANING: Mapping[str, tuple[str, ...]] = {
    "classify": ("masking", "subwords"),
    "ner": ("masking",),
    "qa": ("masking", "subwords", "class_weights"),
    "masked-lm": ("subwords", "class_weights", "label_smoothing"),
    "seq2seq": ("masking", "subwords", "class_weights"),
}
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "masked-lm": ("text",),
    "classify": ("text", "label"),
    "ner": (),
    "qa": (),
    "seq2seq": ("source", "target"),
}


class Base(Strict):
    """What the training starts from. A string alone is the base."""

    base: str = Field(min_length=1)  # catalog name, hub id, or a folder
    revision: str | None = None
    compare: str | None = Field(default=None, min_length=1)  # another base: the same training from it, for the card

    @field_validator("base", "compare")
    @classmethod
    def _whole(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("it must not hold a NUL character")
        return value


class Data(Strict):
    """The labelled files, and which columns matter."""

    train: str = Field(min_length=1)  # file, glob, folder, or a URI of an object store
    dev: str | None = None  # None: a part of train is kept apart
    test: str | None = None  # measured once, at the end
    format: Literal["csv", "parquet", "jsonl", "conll"] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    text: str | None = None  # a column, or a template with {columns}
    label: str | None = None
    label_delimiter: str | None = Field(default=None, min_length=1)  # several labels in one string
    labels: tuple[str, ...] | None = Field(
        default=None, strict=False, min_length=1
    )  # in this order; None: those of train
    spans: str | None = None  # column of {start, end, label}
    question: str | None = None
    context: str | None = None
    answer: str | None = None
    answer_start: str | None = None
    source: str | None = None
    target: str | None = None
    group: str | None = None  # column: rows of one group never stand on both sides of a split
    dev_fraction: Number = Field(default=0.15, gt=0, lt=1)
    min_examples: int = Field(default=2, ge=1)  # a label with fewer stops the training
    malformed: Literal["stop", "skip"] = "stop"  # rows or lines that give no example

    @field_validator("train", "dev", "test")
    @classmethod
    def _whole(cls, value: str | None) -> str | None:
        return value if value is None else _as_path(value)


def _as_path(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty; name a place, or take the key out")
    if "\0" in value:
        raise ValueError("it must not hold a NUL character")
    return value


class EarlyStopping(Strict):
    """Stop when the metric on the dev set has not become better for some epochs; the best epoch is kept."""

    metric: str | None = None  # None: the objective's first of METRICS
    patience: int = Field(default=5, ge=1)  # epochs: the last ones, of small steps, often still help


class Averaging(Strict):
    """An exponential moving average of the weights is what is evaluated and kept."""

    decay: Number = Field(default=0.99, gt=0, lt=1)  # of the average, a step


class Lora(Strict):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) instead of all weights; merged at the end."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: int = Field(default=32, ge=1)
    dropout: Number = Field(default=0.0, ge=0, lt=1)


class Masking(Strict):
    """Which words of a text are hidden in masked-LM training, anew each epoch."""

    rate: Number = Field(default=0.15, gt=0, lt=1)
    whole_words: bool = True
    replaced: Number = Field(default=0.1, ge=0, le=1)  # share of them that a random word takes the place of
    kept: Number = Field(default=0.1, ge=0, le=1)  # share of them that stay and are predicted all the same

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.replaced + self.kept > 1:
            raise ValueError("replaced and kept are shares of the hidden words and add up to 1 at most")
        return self


class Hyperparameters(Strict):
    """How the training goes. None: a default that depends on the objective."""

    # None: 2e-4 below 40 M weights, else 5e-5
    learning_rate: FiniteNumber | None = Field(default=None, gt=0)
    # None: 5 times that, see optimizer.py
    head_learning_rate: FiniteNumber | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, ge=1, le=10_000)  # all of them are planned beforehand
    batch_tokens: int | None = Field(default=None, ge=16)  # of one step, padding not counted
    gradient_accumulation: int = Field(default=1, ge=1)  # parts of a step that are computed one after another
    warmup: Number = Field(default=0.1, ge=0, lt=1)  # share of all steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: FiniteNumber = Field(default=0.01, ge=0)
    layer_decay: Number = Field(default=0.9, gt=0, le=1)  # rate of a layer to that of the next
    max_gradient: Number = Field(default=1.0, gt=0)  # norm; longer gradients are cut
    label_smoothing: Number | None = Field(default=None, ge=0, lt=1)  # None: 0.05 for classify, else 0
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    dropout: Number | None = Field(default=None, ge=0, lt=1)  # None: 0.1, or the base's own
    early_stopping: EarlyStopping | None = EarlyStopping()
    averaging: Averaging | None = Averaging()
    lora: Lora | None = None
    masking: Masking = Masking()
    subwords: Literal["all", "first"] = "all"  # of ner: the tokens of a word that are learned
    max_length: int | None = Field(default=None, ge=8)  # tokens; None: 256, or the model's positions if fewer
    seed: int = Field(default=0, ge=0, lt=1 << 63)


@dataclass(frozen=True)
class Defaults:
    """What `None` stands for in the hyperparameters of an objective."""

    epochs: int
    batch_tokens: int
    label_smoothing: float = 0.0
    dropout: float | None = 0.1  # None: the base model's own


DEFAULTS: Mapping[str, Defaults] = {
    "masked-lm": Defaults(epochs=3, batch_tokens=4096, dropout=None),
    "classify": Defaults(epochs=12, batch_tokens=1024, label_smoothing=0.05),
    "ner": Defaults(epochs=12, batch_tokens=1024),
    "qa": Defaults(epochs=4, batch_tokens=2048),
    "seq2seq": Defaults(epochs=6, batch_tokens=2048, dropout=None),
}
LENGTH = 256  # tokens of a sequence


class FinetuneJob(Strict):
    """What to train: the whole job file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    objective: Objective
    model: Base
    data: Data
    hyperparameters: Hyperparameters = Hyperparameters()
    output: str = Field(min_length=1)  # folder of the finished model
    checkpoint_seconds: Number = Field(default=300.0, ge=0)  # between checkpoints; 0: after every step
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"base": value} if isinstance(value, str) else value

    _place = field_validator("output")(_as_path)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        of_objective = _COLUMNS[self.objective]
        for key in dict.fromkeys(key for keys in _COLUMNS.values() for key in keys):
            given = getattr(self.data, key) is not None
            if given and key not in of_objective:
                raise ValueError(f"'data.{key}' has no meaning for objective: {self.objective}; take it out")
            if not given and key in _NEEDED[self.objective]:
                raise ValueError(f"'data.{key}' is missing; objective: {self.objective} needs it")
        for key in WITHOUT_MEANING[self.objective]:
            # A default that is written out asks for nothing, nor does a smoothing of 0.
            default = Hyperparameters.model_fields[key].default
            if getattr(self.hyperparameters, key) not in (default, 0):
                raise ValueError(f"'hyperparameters.{key}' has no meaning for objective: {self.objective}; take it out")
        stopping = self.hyperparameters.early_stopping
        known = METRICS[self.objective]
        if stopping and stopping.metric is not None and stopping.metric not in known:
            raise ValueError(
                f"'hyperparameters.early_stopping.metric' must be one of {', '.join(known)} for objective:"
                f" {self.objective} (given: {stopping.metric!r})"
            )
        return self

    def settled(self) -> Hyperparameters:
        """The hyperparameters with the objective's defaults in place of None; max_length and rates stay."""
        wanted, known = self.hyperparameters, DEFAULTS[self.objective]
        given = {key: getattr(wanted, key) for key in ("epochs", "batch_tokens", "label_smoothing", "dropout")}
        return wanted.model_copy(
            update={key: getattr(known, key) if value is None else value for key, value in given.items()}
        )

    @property
    def metric(self) -> str:
        """What the best epoch is chosen by."""
        stopping = self.hyperparameters.early_stopping
        return (stopping.metric if stopping else None) or METRICS[self.objective][0]
