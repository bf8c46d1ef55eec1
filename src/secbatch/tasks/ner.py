"""Spans of each text with their types, by a model that was fine-tuned to label tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from secbatch.models.batch_runner import BatchReport
from secbatch.models.configuration import load_config
from secbatch.models.model_kinds import check_head
from secbatch.models.overlapping import WindowedTexts, windowed
from secbatch.models.requests import Request, all_states
from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Made
from secbatch.task_specs import Ner
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import done_texts, texts_of_windows, without_failed
from secbatch.tasks.encoder_task import Prepared
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.label_names import check_label_count, label_names
from secbatch.tasks.label_scheme import LabelScheme
from secbatch.tasks.ner_columns import packed_spans, span_columns, span_fields, with_known_spans
from secbatch.tasks.ner_spans import grouped, starts_of_words, trimmed
from secbatch.tasks.repeats import Recalled
from secbatch.tasks.text_task import TextTask

CODE_VERSION = 2  # raise it when results change


@dataclass(frozen=True)
class EncodedTexts:
    """u distinct texts of a shard of n rows, of N tokens together."""

    recalled: Recalled  # which text a row has: u of them are to be computed
    texts: WindowedTexts  # [u]
    units: np.ndarray  # [m] int64: the first token of each word; of each token, where these are not aggregated


@dataclass(frozen=True)
class Tagged:
    """What the model says of each token of the windows, T of them with the special ones."""

    encoded: EncodedTexts
    labels: np.ndarray  # [T] int32, the best label
    scores: np.ndarray  # [T] float32, its probability
    shares: np.ndarray | None  # [T, labels] float32, where these are averaged over words
    errors: dict[int, str]  # window -> one sentence
    tokens: int
    padding: int


class NerTask(TextTask[EncodedTexts, Tagged]):
    """Spans by a token-classification head, aggregated as the stock `token-classification` pipeline does.

    A text longer than the model's positions goes through it in overlapping windows; each token is read from the window
    that shows most around it, and spans are formed after that.
    """

    def __init__(self, name: str, spec: Ner, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """Raises JobError when the job does not fit the input or the model, ModelError for a broken one."""
        super().__init__(name, spec.text, schema, encoder)
        model, tokenizer = encoder.model, encoder.tokenizer
        self._spec = spec
        config = load_config(model)
        check_head(model, config, "token-classification")
        self._labels = label_names(config, model.name)
        self._scheme = LabelScheme.of(self._labels, model.name)
        self._piece_lengths = tokenizer.written_lengths() if tokenizer.marks_inner_pieces else None
        encoder.need_head("token-classification")

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self.encoder.notices, *self._scheme.remarks(self.encoder.model.name))

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return span_fields(self.name)

    def fingerprint(self) -> str:
        spec = self._spec
        parameters = {"text": spec.text, "aggregation": spec.aggregation, "threshold": spec.threshold}
        return fingerprint("ner", CODE_VERSION, parameters, self.encoder.model, self.encoder.compute)

    def load(self) -> None:
        super().load()
        head = self.encoder.token_head("token-classification")
        check_label_count(self._labels, head.labels, self.encoder.model.name)

    def encoded(self, recalled: Recalled) -> EncodedTexts:
        tokenizer = self.encoder.tokenizer
        texts = windowed(recalled.texts, tokenizer)
        if self._spec.aggregation == "simple":
            units = np.arange(len(texts.ids))
        else:
            unknown = tokenizer.hf.unk_token_id
            units = np.flatnonzero(starts_of_words(texts, recalled.texts, self._piece_lengths, unknown))
        return EncodedTexts(recalled, texts, units)

    def prepare(self, encoded: EncodedTexts) -> Prepared[Tagged]:
        head = self.encoder.token_head("token-classification")
        sequences = encoded.texts.sequences
        total = len(sequences.ids)
        labels, scores = np.zeros(total, np.int32), np.zeros(total, np.float32)
        shares = np.zeros((total, head.labels), np.float32) if self._spec.aggregation == "average" else None

        def tag(rows: np.ndarray, part: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
            places = spans(sequences.offsets[rows], part.lengths)
            probabilities = head.logits_of(states).softmax(dim=-1)
            if shares is not None:
                yield Made(shares, places, probabilities)
            best = probabilities.max(dim=-1)
            yield Made(labels, places, best.indices)
            yield Made(scores, places, best.values)

        def collect(report: BatchReport) -> Tagged:
            return Tagged(encoded, labels, scores, shares, report.errors, report.tokens, report.padding)

        return Prepared(Request(sequences, all_states, tag, head="token-classification"), collect)

    def finish(self, computed: Tagged) -> TaskColumns:
        recalled, texts = computed.encoded.recalled, computed.encoded.texts
        broken = ~np.isfinite(computed.scores)
        wrong = texts_of_windows(broken, texts.sequences, texts.owners, computed.errors, self.encoder.model.name)
        found = trimmed(grouped(*self._units(computed), texts, self._scheme), recalled.texts)
        if self._spec.threshold is not None:
            found = found.where(found.scores >= self._spec.threshold)
        if len(recalled.keys):
            good = done_texts(len(texts.counts), wrong)
            self.repeats.add(recalled.keys[good], *packed_spans(found, good))
        if recalled.results:
            found = with_known_spans(found, recalled.results)
        rows, errors = without_failed(recalled.rows, wrong)
        every = [*recalled.texts, *recalled.known]
        columns = span_columns(self.name, rows, found, every, self._scheme.types)
        return TaskColumns(columns, errors, computed.tokens, computed.padding)

    def _units(self, computed: Tagged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Label, score and first token of each unit."""
        units, source = computed.encoded.units, computed.encoded.texts.source
        labels, scores = computed.labels[source], computed.scores[source]
        if self._spec.aggregation == "max" and len(units):
            word = np.repeat(np.arange(len(units)), np.diff(np.append(units, len(source))))
            top = np.flatnonzero(scores == np.maximum.reduceat(scores, units)[word])
            chosen = top[np.unique(word[top], return_index=True)[1]]  # the first of equals
            return labels[chosen], scores[chosen], units
        if computed.shares is not None and len(units):
            sizes = np.diff(np.append(units, len(source)))
            means = np.add.reduceat(computed.shares[source], units, axis=0) / sizes[:, None]
            return means.argmax(axis=1), means.max(axis=1), units
        return labels[units], scores[units], units
