"""The job file: frozen, strict models. An unknown key is an error that names the nearest known one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

RUN_DATE = "{run_date}"
TASK_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
CHAT_PROMPT = "Under the context of network and cyber security. {text}"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("path", "model", "revision", mode="after", check_fields=False)
    @classmethod
    def _no_nul(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("it must not hold a NUL character")
        return value


Names = Annotated[tuple[str, ...], Field(strict=False)]


def _one_or_several(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


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


def _count_or_percent(value: Any, about: ValidationInfo) -> str:
    text = str(value).strip()
    number = text.removesuffix("%").strip()
    try:
        amount = float(number) if text.endswith("%") else int(number)
    except ValueError:
        amount = -1
    if isinstance(value, bool) or not amount >= 0 or (text.endswith("%") and amount > 100):
        raise ValueError(f"{about.field_name} must be a count such as 100 or a percentage such as 1%")
    return text


def _allowed(limit: str, rows: int) -> float:
    """A count, or the share of `rows` that a percentage means."""
    return float(limit[:-1]) / 100 * rows if limit.endswith("%") else float(limit)


class Input(Strict):
    """Where rows come from."""

    path: str  # file, glob, folder, or a URI of an object store
    format: Literal["csv", "parquet", "jsonl"] | None = None  # None: by the file's ending
    id: Names = ()  # columns that name a row
    types: Mapping[str, str] = {}  # CSV columns are strings unless named here
    delimiter: str | None = None  # None: found in the header
    encoding: str | None = None  # None: by byte order mark, else UTF-8
    sentences: str | None = None  # document column that is split into sentence rows
    settle: float = Field(default=0, ge=0, strict=False)  # seconds; files changed since are left for the next run

    _id = field_validator("id", mode="before")(_one_or_several)

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        value = "\t" if value in ("\\t", "tab") else value
        if value is not None and (len(value) != 1 or value in '"\r\n' or ord(value) > 127):
            raise ValueError("delimiter must be one ASCII character other than a quote or a line end")
        return value


class TaskBase(Strict):
    model: str  # catalog name, hub id, or a folder
    revision: str | None = None  # branch, tag or commit on the hub; the catalog pins its own


class FillMask(TaskBase):
    """The best words for each `<mask>`."""

    type: Literal["fill-mask"]
    text: str  # a column, or a template with {columns}
    top_k: int = Field(default=10, ge=1, le=1000)
    targets: Names | None = None  # rank only these words

    _targets = field_validator("targets", mode="before")(_one_or_several)


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
    threshold: float | None = Field(default=None, ge=0, le=1, strict=False)
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
            raise ValueError("labels must be words, each once, or labels with a word or a list of words each")
        return value and {label: _one_or_several(words) for label, words in value.items()}

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
    threshold: float | None = Field(default=None, ge=0, le=1, strict=False)  # leave out spans below it


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
    temperature: float | None = Field(default=None, gt=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    repetition_penalty: float | None = Field(default=None, gt=0)
    seed: int = 0


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
    timeout: float = Field(default=120, gt=0, le=3600)  # seconds for one try
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
        if "@" in address.netloc or address.query or address.fragment:
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
    threshold: float | None = Field(default=None, strict=False, allow_inf_nan=False)  # the least score that counts


class Qa(TaskBase):
    """The span of a context that answers a question."""

    type: Literal["qa"]
    question: str  # a column, a template with {columns}, or one question for all rows, which ends with "?"
    context: str  # a column, or a template with {columns}
    top_k: int = Field(default=1, ge=1, le=100)
    max_answer_tokens: int = Field(default=30, ge=1, le=512)
    # There is no answer where "none" scores higher than the best span by more than this; null: there is always one.
    no_answer_threshold: float | None = Field(default=0.0, strict=False, allow_inf_nan=False)
    stride: int = Field(default=128, ge=0)  # tokens that neighbouring windows over a long context share

    @property
    def text(self) -> str:
        """What the answers are found in."""
        return self.context


TaskSpec = Annotated[FillMask | Embed | Classify | Ner | Chat | Seq2Seq | Similarity | Qa, Field(discriminator="type")]


class Output(Strict):
    """Where the dataset goes."""

    path: str
    partition_by: Names = ()
    mode: Literal["incremental", "overwrite", "fail-if-exists"] = "incremental"
    removed: Literal["keep", "mark", "drop"] = "keep"  # rows that are no longer in the input
    missing_columns: Literal["stop", "drop"] = "stop"  # columns of the dataset that the input no longer has
    max_removed: str = "40%"  # a count or a percentage of the dataset's rows; above it the run stops

    _partition_by = field_validator("partition_by", mode="before")(_one_or_several)
    _max_removed = field_validator("max_removed", mode="before")(_count_or_percent)

    @field_validator("path")
    @classmethod
    def _known_place(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is empty; name a folder")
        unknown = [place for place in re.findall(r"\{[A-Za-z_-]+\}", value) if place != RUN_DATE]
        if unknown:
            raise ValueError(f"{unknown[0]} stands for nothing there; only {RUN_DATE} does, the day of the run")
        if not value.startswith("~"):
            return value
        try:
            return str(Path(value).expanduser())  # as for input.path
        except RuntimeError:
            raise ValueError("it begins with '~' and a name that nobody has here; write the whole path") from None

    @field_validator("partition_by")
    @classmethod
    def _run_date_alone(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        dated = [entry for entry in value if RUN_DATE in entry]
        if len(dated) > 1 or any(not entry.endswith(f"={RUN_DATE}") or entry.count(RUN_DATE) > 1 for entry in dated):
            raise ValueError(f"{RUN_DATE} can stand once, after the name of a column that it becomes: night={RUN_DATE}")
        return value

    @property
    def partition_columns(self) -> tuple[str, ...]:
        """The names in `partition_by`."""
        return tuple(entry.removesuffix(f"={RUN_DATE}") for entry in self.partition_by)

    @property
    def run_date_column(self) -> str | None:
        """The partition column that is the day of the run which last enriched a row."""
        return next((entry.removesuffix(f"={RUN_DATE}") for entry in self.partition_by if RUN_DATE in entry), None)

    def removals_allowed(self, rows: int) -> float:
        """How many of the dataset's `rows` one run may drop or mark."""
        return _allowed(self.max_removed, rows)


class Job(Strict):
    """What to do: the whole job file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    input: Input
    tasks: Mapping[Annotated[str, Field(pattern=TASK_NAME)], TaskSpec] = Field(min_length=1)
    output: Output
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_recompute: int | None = Field(default=None, ge=0)  # rows that a changed task may have done again
    max_rejects: str = "1%"  # a count or a percentage of the rows read

    _max_rejects = field_validator("max_rejects", mode="before")(_count_or_percent)

    def rejects_allowed(self, rows_read: int) -> float:
        """How many rejected rows are still fine, of `rows_read` rows (parsed and unparseable together)."""
        return _allowed(self.max_rejects, rows_read)
