"""Answers that stand in a text, by a model that was fine-tuned to find them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from secbatch.models.batch_runner import BatchReport
from secbatch.models.configuration import load_config
from secbatch.models.model_kinds import check_head, check_kind
from secbatch.models.pairs import PairFrame
from secbatch.models.question_windows import QuestionWindows, question_windows
from secbatch.models.requests import Request, all_states
from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Made
from secbatch.task_specs import Qa
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import done_texts, texts_of_windows, without_failed
from secbatch.tasks.encoder_task import Prepared, compute_alone
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.qa_columns import answer_columns, answer_fields, packed_answers, with_known_answers
from secbatch.tasks.qa_spans import best_answers
from secbatch.tasks.repeats import Recalled, Repeats, recall
from secbatch.tasks.text import DistinctTexts, TextSource, question_source

CODE_VERSION = 2  # raise it when results change


@dataclass(frozen=True)
class EncodedQuestions:
    """u distinct pairs of question and context of a shard of n rows."""

    recalled: Recalled  # which pair a row has: u of them are to be computed
    windows: QuestionWindows  # of the u pairs


@dataclass(frozen=True)
class Pointed:
    """What the model makes of each of the T tokens of the windows."""

    encoded: EncodedQuestions
    logits: np.ndarray  # [T, 2] float32: as start and as end of the answer
    errors: dict[int, str]  # window -> one sentence
    tokens: int
    padding: int


class QaTask:
    """The best span of the context, or none where the model says so. Identical pairs are computed once.

    A context longer than the model's positions goes through it in overlapping windows, each with the question.
    """

    def __init__(self, name: str, spec: Qa, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """Raises JobError when the job does not fit the input, ModelError when the model does not fit the task."""
        self.name = name
        self.encoder = encoder
        self._spec = spec
        self._question = question_source(spec.question, schema, f"tasks.{name}.question")
        self._context = TextSource.of(spec.context, schema, f"tasks.{name}.context")
        self.reads = tuple(dict.fromkeys((*self._question.columns, *self._context.columns)))
        config = load_config(encoder.model)
        check_kind(encoder.model, config, "question-answering")
        check_head(encoder.model, config, "question-answering")
        self._frame = PairFrame.of(encoder.tokenizer, config, "question-answering")
        self.repeats = Repeats(encoder.scratch)
        encoder.need_head("question-answering")

    @property
    def notices(self) -> tuple[str, ...]:
        return self.encoder.notices

    @property
    def remembers(self) -> bool:
        """Whether an answer may stand for later rows with the same question and context."""
        return self.encoder.batch_free

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return answer_fields(self.name, self._spec.top_k > 1)

    def fingerprint(self) -> str:
        parameters = self._spec.model_dump(mode="json", exclude={"type", "model", "revision"})
        return fingerprint("qa", CODE_VERSION, parameters, self.encoder.model, self.encoder.compute)

    def load(self) -> None:
        self.encoder.load()

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> EncodedQuestions:
        questions, contexts = self._question.render(table), self._context.render(table)
        filled = (pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(one), ""), False) for one in (questions, contexts))
        distinct = DistinctTexts.of(_joined(questions, contexts), pc.and_(usable, pc.and_(*filled)))
        return self.encoded(recall(distinct, self.repeats if self.remembers else None))

    def encoded(self, recalled: Recalled) -> EncodedQuestions:
        pairs = [_apart(text) for text in recalled.texts]
        windows = question_windows(pairs, self._frame, self.encoder.tokenizer, self._spec.stride)
        return EncodedQuestions(recalled, windows)

    def prepare(self, encoded: EncodedQuestions) -> Prepared[Pointed]:
        head = self.encoder.token_head("question-answering")
        sequences = encoded.windows.sequences
        logits = np.zeros((len(sequences.ids), 2), np.float32)

        def point(rows: np.ndarray, part: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
            yield Made(logits, spans(sequences.offsets[rows], part.lengths), head.logits_of(states))

        def collect(report: BatchReport) -> Pointed:
            return Pointed(encoded, logits, report.errors, report.tokens, report.padding)

        return Prepared(Request(sequences, all_states, point, head="question-answering"), collect)

    def compute(self, encoded: EncodedQuestions) -> Pointed:
        return compute_alone(self, encoded)

    def finish(self, computed: Pointed) -> TaskColumns:
        recalled, windows, spec = computed.encoded.recalled, computed.encoded.windows, self._spec
        broken = ~np.isfinite(computed.logits).all(axis=1)
        owners = np.repeat(np.arange(len(windows.counts)), windows.counts)
        wrong = texts_of_windows(broken, windows.sequences, owners, computed.errors, self.encoder.model.name)
        contexts = [_apart(text)[1] for text in recalled.texts]
        logits = np.nan_to_num(computed.logits, nan=0.0, posinf=0.0, neginf=0.0) if wrong else computed.logits
        found = best_answers(windows, logits, contexts, spec.top_k, spec.max_answer_tokens, spec.no_answer_threshold)
        if len(recalled.keys):
            good = done_texts(len(contexts), wrong)
            self.repeats.add(recalled.keys[good], *packed_answers(found, good))
        if recalled.results:
            found = with_known_answers(found, recalled.results)
            contexts += [_apart(text)[1] for text in recalled.known]
        rows, errors = without_failed(recalled.rows, wrong)
        columns = answer_columns(self.name, rows, found, contexts, spec.top_k > 1)
        return TaskColumns(columns, errors, computed.tokens, computed.padding)


def _joined(questions: pa.Array, contexts: pa.Array) -> pa.Array:
    """A pair as one text: the question's length, a colon, both. Null where one of them is."""
    lengths = pc.cast(pc.utf8_length(questions), pa.large_string())
    colon, nothing = pa.scalar(":", pa.large_string()), pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(lengths, colon, questions, contexts, nothing)


def _apart(text: str) -> tuple[str, str]:
    length, _, both = text.partition(":")
    return both[: int(length)], both[int(length) :]
