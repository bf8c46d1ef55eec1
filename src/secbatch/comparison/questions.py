"""Evaluation of qa: extracted answers, exact match and F1."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from secbatch.comparison.evaluation import Measured
from secbatch.comparison.labelled_rows import LabelledRows
from secbatch.comparison.predictions import Predicted, Progress, predict
from secbatch.evaluation.answers import ANSWERS, answer_tally
from secbatch.evaluation.tally import Figure
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import read_questions
from secbatch.models.configuration import load_config
from secbatch.models.device import Compute
from secbatch.models.model_kinds import check_head
from secbatch.models.resolve import resolve


class Questions(LabelledRows):
    """Columns of questions, of contexts, and of answers that stand in them."""

    name = "qa"
    parts_are = ""
    method = "As SQuAD: case, punctuation and articles aside; a question without an answer is right with none given."

    def __init__(
        self,
        files: LabelledFiles,
        question: str = "question",
        context: str = "context",
        answer: str = "answer",
        answer_start: str = "answer_start",
        group: str | None = None,
        no_answer_threshold: float | None = None,
        limit: int | None = None,
        like: Mapping[str, Any] | None = None,
    ) -> None:
        """`no_answer_threshold`: as the task has it, whose default it is when None. Raises InputError for bad rows."""
        labelled = read_questions(files, question, context, answer, answer_start, group)
        self._examples = labelled.examples[:limit]
        super().__init__([example.group for example in self._examples], labelled.files, labelled.notices)
        self._threshold, self._like = no_answer_threshold, dict(like or {})
        some_have_none = any(not example.answers for example in self._examples)
        self.headline = ("exact", "f1", *(("answerable_f1", "unanswerable") if some_have_none else ()))

    @property
    def figures(self) -> Mapping[str, Figure]:
        return {name: ANSWERS[name] for name in self.headline}

    def check(self, model: str) -> tuple[str, ...]:
        """Raises ModelError, before anything is run, for a model that answers no questions."""
        resolved = resolve(model)
        check_head(resolved, load_config(resolved), "question-answering")
        return ()

    def predict(self, model: str, compute: Compute, progress: Progress | None) -> Predicted:
        table = pa.table(
            {
                "question": [example.question for example in self._examples],
                "context": [example.context for example in self._examples],
            }
        )
        settings: dict[str, Any] = {**self._like, "type": "qa", "question": "question", "context": "context"}
        if self._threshold is not None:
            settings["no_answer_threshold"] = self._threshold
        return predict(model, settings, table, compute, progress)

    def measure(self, outcomes: Sequence[Predicted]) -> list[Measured]:
        references = [[answer.text for answer in example.answers] for example in self._examples]
        return [Measured(answer_tally(outcome.columns[""], references)) for outcome in outcomes]
