"""What a job says of its tasks: a frozen, strict model for each type of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from secbatch.strict import FiniteNumber, Names, Number, Strict, one_or_several

CHAT_PROMPT = "Under the context of network and cyber security. {text}"


class TaskBase(Strict):
    model: str  # catalog name, hub id, or a folder
    revision: str | None = None  # branch, tag or commit on the hub; the catalog pins its own


class FillMask(TaskBase):
    """The best words for each `<mask>`."""

    type: Literal["fill-mask"]
    text: str  # a column, or a template with {columns}
    top_k: int = Field(default=10, ge=1, le=1000)
    targets: Names | None = None  # rank only these words

    _targets = field_validator("targets", mode="before")(one_or_several)


class Embed(TaskBase):
    """`last_hidden_state`, pooled to one vector a row."""

    type: Literal["embed"]
    text: str
    pooling: Literal["mean", "first"] = "mean"
    normalize: bool = False  # L2
    dimension: int | None = Field(default=None, ge=1)  # refuse a model of another width


class Classify(TaskBase):
    """The label of each text: by a model fine-tuned for it, or without one by the words that fit a `<mask>`."""

    type: Literal["classify"]
    text: str
    scores: str | int = "all"  # how many of the labels are kept
    threshold: Number | None = Field(default=None, ge=0, le=1)
    problem: Literal["single-label", "multi-label", "regression"] | None = None  # None: as the model's config says
    labels: Mapping[str, Names] | None = None  # zero-shot: the words that stand for each label
    template: str | None = None  # zero-shot: what is asked about {text}, with a <mask>
    calibrate: bool = True  # zero-shot: against what the template says of a text without content

    @field_validator("scores", mode="before")
    @classmethod
    def _how_many(cls, value: Any) -> Any:
        if value in ("all", "best") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise ValueError("scores must be all, best, or a number of labels from 1 on")

    @field_validator("labels", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(label, str) for label in value) and len(set(value)) == len(value):
            value = {label: label for label in value}  # labels that are their own words
        if value is not None and not (isinstance(value, dict) and all(map(_label_with_words, value.items()))):
            quotes = "; what YAML takes for a number or for true and false (no, 443) must stand in quotes to be a word"
            raise ValueError(
                "labels must be words, each once, or labels with a word or a list of words each"
                + (quotes if _holds_unquoted(value) else "")
            )
        return value and {label: one_or_several(words) for label, words in value.items()}

    @field_validator("template")
    @classmethod
    def _places(cls, value: str | None) -> str | None:
        if value is not None and (value.count("{text}") != 1 or value.count("<mask>") != 1):
            raise ValueError("template must contain {text} and <mask>, each once")
        return value

    @model_validator(mode="after")
    def _cloze(self) -> Self:
        if (self.labels is None) is not (self.template is None):
            given, missing = ("labels", "template") if self.template is None else ("template", "labels")
            raise ValueError(f"{given} needs {missing} beside it: they classify by the words that fit a <mask>")
        if self.labels is None and not self.calibrate:  # `true` stands in the record of every run
            raise ValueError("calibrate has no effect without labels and template")
        if self.labels is not None and len(self.labels) < 2:
            raise ValueError("labels must name at least two labels")
        if self.labels is not None and self.problem not in (None, "single-label"):
            raise ValueError("problem must be single-label with labels and template: a <mask> has one best label")
        if self.problem == "regression" and self.threshold is not None:
            raise ValueError("threshold has no effect with problem: regression")
        return self


class Ner(TaskBase):
    """Spans of each text, with their types and places."""

    type: Literal["ner"]
    text: str
    aggregation: Literal["simple", "first", "average", "max"] = "first"
    threshold: Number | None = Field(default=None, ge=0, le=1)  # leave out spans below it


class Conversation(Strict):
    """Rows of one conversation, in order, each seeing the turns before it."""

    id: str
    order: str


class Generation(Strict):
    """How answers are generated; None keeps the model's own default."""

    max_new_tokens: int | None = Field(default=None, ge=1, le=8192)
    min_new_tokens: int | None = Field(default=None, ge=0, le=8192)
    num_beams: int | None = Field(default=None, ge=1, le=64)
    do_sample: bool | None = None
    # Beyond these bounds scores leave the range of float32, and lengths to that power the range of floats.
    temperature: FiniteNumber | None = Field(default=None, ge=1e-9, le=1e9)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    length_penalty: FiniteNumber | None = Field(default=None, ge=-50, le=50)
    no_repeat_ngram_size: int | None = Field(default=None, ge=0, le=10_000)
    repetition_penalty: FiniteNumber | None = Field(default=None, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _least_within_most(self) -> Self:
        least, most = self.min_new_tokens, self.max_new_tokens
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_new_tokens ({least}) is more than max_new_tokens ({most}); change one of them")
        return self


class Chat(TaskBase):
    """An answer to each question."""

    type: Literal["chat"]
    text: str
    prompt: str = "{text}"  # put around each question; must contain {text}
    system: str | None = None  # system message, for models with a chat template
    conversation: Conversation | None = None
    generation: Generation = Generation()
    runtime: Literal["auto", "torch", "vllm"] = "auto"  # what generates, for a decoder-only model on this machine
    endpoint: str | None = None  # of a server with OpenAI's protocol, http://host:8000/v1: it has the model
    concurrency: int = Field(default=16, ge=1, le=1024)  # requests at a time
    timeout: Number = Field(default=120, gt=0, le=3600)  # seconds for one try
    retries: int = Field(default=6, ge=0, le=100)  # after the first try
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")  # variable with the key

    @model_validator(mode="before")
    @classmethod
    def _blenderbot_prompt(cls, values: Any) -> Any:
        # The notebook's prefix is what the Blenderbot job asks with unless the job says otherwise.
        if isinstance(values, dict) and "prompt" not in values:
            model = str(values.get("model", "")).lower()
            if "blenderbot" in model or model == "builtin/chat":
                return {**values, "prompt": CHAT_PROMPT}
        return values

    @field_validator("prompt")
    @classmethod
    def _has_text(cls, value: str) -> str:
        if "{text}" not in value:
            raise ValueError("prompt must contain {text}, the place of the question")
        return value

    @field_validator("endpoint")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            address = urlsplit(value)
            whole = address.scheme in ("http", "https") and address.hostname and (address.port or 1)
        except ValueError:  # a port that is no number
            whole = False
        if not whole or any(c.isspace() or not c.isprintable() for c in value):
            raise ValueError("endpoint must be an address such as http://host:8000/v1")
        if "@" in address.netloc or "?" in value or "#" in value:
            raise ValueError(
                "endpoint must hold no user, password or parameters; a key belongs into an environment variable,"
                " named in api_key_env"
            )
        return value.rstrip("/").removesuffix("/chat/completions")

    @model_validator(mode="after")
    def _endpoint_alone(self) -> Self:
        if self.endpoint is None:
            for name in ("concurrency", "timeout", "retries", "api_key_env"):
                # The record of every run holds the defaults, and must stay readable for `secbatch retry`.
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect without endpoint")
            return self
        if self.runtime != "auto":
            raise ValueError("runtime has no effect with endpoint: the server has its own")
        if self.revision is not None:
            raise ValueError("revision has no effect with endpoint: the server has the model that it has")
        sent = {"max_new_tokens", "do_sample", "temperature", "top_p", "seed"}
        for name, value in self.generation:
            if value is not None and name not in sent:
                raise ValueError(f"generation.{name} cannot be sent to an endpoint; {', '.join(sorted(sent))} can")
            if name in ("temperature", "top_p") and value is not None and not self.generation.do_sample:
                raise ValueError(f"generation.{name} has no effect without generation.do_sample: true")
        return self


class Seq2Seq(TaskBase):
    """What an encoder-decoder model makes of each text: a summary, a translation."""

    type: Literal["seq2seq"]
    text: str
    prompt: str = "{text}"  # a template with {text} and, besides, {columns}
    generation: Generation = Generation()

    @field_validator("prompt")
    @classmethod
    def _text_once(cls, value: str) -> str:
        if value.count("{text}") != 1:
            raise ValueError("prompt must contain {text}, the place of the text, once")
        return value


class Reference(Strict):
    """Rows that texts are compared with."""

    path: str  # as `input.path`
    id: str  # the column that names a row
    text: str  # a column, or a template with {columns}
    format: Literal["csv", "parquet", "jsonl"] | None = None
    delimiter: str | None = None
    encoding: str | None = None


class Similarity(TaskBase):
    """The rows of a reference that are nearest to each text."""

    type: Literal["similarity"]
    text: str
    reference: Reference
    pooling: Literal["mean", "first"] = "mean"
    normalize: bool = True  # L2: scores are cosines
    top_k: int = Field(default=5, ge=1, le=1000)
    threshold: FiniteNumber | None = Field(default=None)  # the least score that counts

    @model_validator(mode="after")
    def _within_cosines(self) -> Self:
        if self.normalize and self.threshold is not None and abs(self.threshold) > 1:
            raise ValueError("threshold must be from -1 to 1: with normalize: true scores are cosines")
        return self


class Qa(TaskBase):
    """The span of a context that answers a question."""

    type: Literal["qa"]
    question: str  # a column, a template with {columns}, or one question for all rows, which ends with "?"
    context: str  # a column, or a template with {columns}
    top_k: int = Field(default=1, ge=1, le=100)
    max_answer_tokens: int = Field(default=30, ge=1, le=512)
    # There is no answer where "none" scores higher than the best span by more than this; null: there is always one.
    no_answer_threshold: FiniteNumber | None = Field(default=0.0)
    stride: int = Field(default=128, ge=0)  # tokens that neighbouring windows over a long context share

    @property
    def text(self) -> str:
        """What the answers are found in."""
        return self.context


TaskSpec = Annotated[FillMask | Embed | Classify | Ner | Chat | Seq2Seq | Similarity | Qa, Field(discriminator="type")]


def writes_here(spec: TaskBase) -> bool:
    """Whether a model on this machine writes texts for it, token by token."""
    return isinstance(spec, Seq2Seq) or (isinstance(spec, Chat) and spec.endpoint is None)


def goes_through_endpoint(spec: TaskBase) -> bool:
    """Whether a server computes it."""
    return isinstance(spec, Chat) and spec.endpoint is not None


def _holds_unquoted(value: Any) -> bool:
    """Whether a number, true or false stands for a label or a word."""
    parts = [value, *value.values()] if isinstance(value, dict) else [value]
    words = [word for part in parts for word in (part if isinstance(part, list | dict) else [part])]
    return any(isinstance(word, bool | int | float) for word in words)


def _label_with_words(entry: tuple[Any, Any]) -> bool:
    label, words = entry
    words = [words] if isinstance(words, str) else words
    return (
        isinstance(label, str)
        and bool(label.strip())
        and isinstance(words, list | tuple)
        and bool(words)
        and all(isinstance(word, str) for word in words)
    )
