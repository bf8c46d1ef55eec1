"""The seq2seq task: a summary, a translation, whatever an encoder-decoder model makes of a text."""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from secbatch.models.model_kinds import check_kind
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.generated_text import text_columns, text_fields
from secbatch.tasks.seq2seq_prompt import Prompt, Read, read
from secbatch.tasks.text import TextSource
from secbatch.tasks.text_generator import TextGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from secbatch.models.device import Compute
    from secbatch.models.resolved import ResolvedModel
    from secbatch.task_specs import Seq2Seq

CODE_VERSION = 1  # raise it when results change


@dataclass(frozen=True)
class EncodedPrompts:
    """What the model reads for each row of a shard; None where there is nothing to do."""

    read: list[Read | None]  # [n]
    rows: list[str]  # [n], identities


@dataclass(frozen=True)
class Output:
    """What the model wrote for one row, or why it wrote nothing."""

    text: str | None
    tokens: int
    truncated: bool
    error: str | None


@dataclass(frozen=True)
class ComputedOutputs:
    outputs: list[Output | None]  # [n]
    tokens: int
    padding: int


class Seq2SeqTask:
    """Each row alone, through the generation that chat uses. Equal rows are generated for once."""

    def __init__(
        self,
        name: str,
        spec: "Seq2Seq",
        schema: pa.Schema,
        model: "ResolvedModel",
        compute: "Compute",
        scratch: "Path | None" = None,
    ) -> None:
        """`scratch`: see `TextGenerator`.

        Raises JobError when job, input and model do not fit together, ModelError for a model of another kind."""
        self.name, self._spec, self._resolved = name, spec, model
        self._text = TextSource.of(spec.text, schema, f"tasks.{name}.text")
        self._prompt = Prompt(spec.prompt, schema, f"tasks.{name}.prompt")
        self.reads = tuple(dict.fromkeys((*self._text.columns, *self._prompt.columns)))
        self._model = TextGenerator(spec.generation, model, compute, scratch)
        check_kind(model, self._model.config, "seq2seq")

    @property
    def notices(self) -> tuple[str, ...]:
        return self._model.notices

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return text_fields(self.name)

    @property
    def remembers(self) -> bool:
        return self._model.remembers

    @property
    def samples(self) -> bool:
        return self._model.samples

    def fingerprint(self) -> str:
        facts = {
            **self._model.facts(),
            "task": "seq2seq",
            "code": CODE_VERSION,
            "text": self._spec.text,
            "prompt": self._spec.prompt,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        self._model.load()

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> EncodedPrompts:
        texts = [
            text if use and text is not None and text.strip() else None
            for text, use in zip(self._text.render(table).to_pylist(), usable.to_pylist(), strict=True)
        ]
        framed = self._prompt.frames(texts, table, self._model.tokenizer)
        distinct = list(dict.fromkeys(one for one in framed if one is not None))
        done = dict(zip(distinct, read(distinct, self._model.tokenizer, self._resolved.name), strict=True))
        return EncodedPrompts([None if one is None else done[one] for one in framed], ids.to_pylist())

    def compute(self, encoded: EncodedPrompts) -> ComputedOutputs:
        model = self._model
        done_tokens, done_padding = model.tokens, model.padding
        outputs = [None if one is None else Output(None, 0, one.truncated, one.error) for one in encoded.read]
        todo = [place for place, one in enumerate(encoded.read) if one is not None and one.error is None]
        prompts = [one.tokens for one in encoded.read if one is not None and one.error is None]
        written = model.write(prompts, [encoded.rows[place] for place in todo])
        for place, made in zip(todo, written, strict=True):
            before = outputs[place]
            assert before is not None
            outputs[place] = Output(made.text, made.tokens, before.truncated, made.error)
        return ComputedOutputs(outputs, model.tokens - done_tokens, model.padding - done_padding)

    def finish(self, computed: ComputedOutputs) -> TaskColumns:
        return text_columns(self.name, computed.outputs, computed.tokens, computed.padding)
