"""The label of each text, by a model that was fine-tuned to classify."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from secbatch.models.batch_runner import BatchReport
from secbatch.models.configuration import load_config
from secbatch.models.model_kinds import check_head
from secbatch.models.requests import Request
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Made
from secbatch.models.windows import beginnings
from secbatch.task_specs import Classify
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import CutTexts
from secbatch.tasks.encoder_task import Prepared
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.label_columns import Labelling, Scored, label_columns, label_fields, scored
from secbatch.tasks.label_names import check_label_count, label_names, problem_of
from secbatch.tasks.repeats import Recalled
from secbatch.tasks.text_task import TextTask

CODE_VERSION = 1  # raise it when results change
MULTI_LABEL_THRESHOLD = 0.5


class ClassifyTask(TextTask[CutTexts, Scored]):
    """Labels by a classification head: softmax, sigmoid (multi-label) or the bare value (regression).

    A text longer than the model's positions is judged by its beginning.
    """

    def __init__(self, name: str, spec: Classify, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """Raises JobError when the job does not fit the input or the model, ModelError for a broken one."""
        super().__init__(name, spec.text, schema, encoder)
        model = encoder.model
        self._spec = spec
        config = load_config(model)
        check_head(model, config, "sequence-classification")
        labels = label_names(config, model.name)
        problem = problem_of(config, spec.problem, labels)
        kept = {"all": len(labels), "best": 1}.get(str(spec.scores), spec.scores)
        threshold = spec.threshold
        if threshold is None and problem == "multi-label":
            threshold = MULTI_LABEL_THRESHOLD
        self._labelling = Labelling(labels, problem, int(kept), threshold if problem != "regression" else None)
        self._said = _remarks(name, model.name, config, spec, self._labelling)
        encoder.need_head("sequence-classification")

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self.encoder.notices, *self._said)

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return label_fields(self.name, self._labelling.problem)

    def fingerprint(self) -> str:
        parameters = {
            "text": self._spec.text,
            "problem": self._labelling.problem,
            "scores": self._labelling.kept,
            "threshold": self._labelling.threshold,
        }
        return fingerprint("classify", CODE_VERSION, parameters, self.encoder.model, self.encoder.compute)

    def load(self) -> None:
        super().load()
        check_label_count(self._labelling.labels, self.encoder.sequence_head.labels, self.encoder.model.name)

    def encoded(self, recalled: Recalled) -> CutTexts:
        return CutTexts(recalled, *beginnings(recalled.texts, self.encoder.tokenizer))

    def prepare(self, encoded: CutTexts) -> Prepared[Scored]:
        head = self.encoder.sequence_head
        scores = np.zeros((len(encoded.sequences), head.labels), np.float32)

        def score(rows: np.ndarray, sequences: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
            logits = head.logits_of(states, sequences)
            if self._labelling.problem == "single-label":
                logits = logits.softmax(dim=-1)
            elif self._labelling.problem == "multi-label":
                logits = logits.sigmoid()
            yield Made(scores, rows, logits)

        recalled, truncated = encoded.recalled.without_texts(), encoded.truncated

        def collect(report: BatchReport) -> Scored:
            return scored(recalled, truncated, scores, report, self.encoder.model.name)

        return Prepared(Request(encoded.sequences, head.wanted, score, head="sequence-classification"), collect)

    def finish(self, computed: Scored) -> TaskColumns:
        return label_columns(self.name, computed, self.repeats, self._labelling)


def _remarks(name: str, model: str, config: object, spec: Classify, labelling: Labelling) -> tuple[str, ...]:
    """What a user should know about how the scores came about."""
    if labelling.problem == "regression":
        useless = " threshold has no effect." if spec.threshold is not None else ""
        return (
            f"Task '{name}': model {model} gives a number, no class; {name}_score is that number as it is.{useless}",
        )
    if len(labelling.labels) == 1 and spec.problem is None and not getattr(config, "problem_type", None):
        return (
            f"Task '{name}': model {model} has one label and does not say what its score is; it is taken through a"
            " sigmoid, as the stock pipeline does. For the number as it is, set problem: regression.",
        )
    return ()
