"""The label of each text without a model fine-tuned for it: which label's words fit the `<mask>` of a template.

Pattern-verbaliser pairs of Schick and Schütze 2021 (PET, arXiv:2001.07676), without their training. Calibration:
Zhao et al. 2021 (arXiv:2102.09690), by the template around texts without content.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from secbatch.errors import JobError, ModelError, UnfitModelError
from secbatch.models.batch_runner import BatchReport
from secbatch.models.cloze import Cloze, cloze_texts
from secbatch.models.requests import Request
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Made, on_device
from secbatch.models.untrusted_text import MASK
from secbatch.task_specs import Classify
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import CutTexts
from secbatch.tasks.encoder_task import Prepared
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.label_columns import Labelling, Scored, label_columns, label_fields, scored
from secbatch.tasks.repeats import Recalled
from secbatch.tasks.targets import target_ids
from secbatch.tasks.text_task import TextTask

CODE_VERSION = 1  # raise it when results change
WITHOUT_CONTENT = ("N/A", "", MASK)


class ClozeTask(TextTask[CutTexts, Scored]):
    """Labels by a masked language model.

    A label's score is the mean probability of its words at the template's `<mask>`, as a share of that of all labels.
    With `calibrate`, each label's share is first divided by the one it has for texts without content. A text that is
    too long is cut at its end; the template stays whole.
    """

    def __init__(self, name: str, spec: Classify, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """Raises JobError when the job does not fit the input or the model, ModelError for a broken one."""
        assert spec.labels is not None and spec.template is not None
        super().__init__(name, spec.text, schema, encoder)
        model, tokenizer = encoder.model, encoder.tokenizer
        self._spec = spec
        if tokenizer.mask_id is None:
            raise UnfitModelError(
                f"model {model.name} has no mask token, so it cannot classify by a template (task {name})"
            )
        self._cloze = Cloze.of(spec.template, tokenizer)
        if self._cloze.room < 1:
            raise JobError(
                f"tasks.{name}.template does not fit into the {tokenizer.max_length} tokens of {model.name} with its"
                " <mask> and a text; make it shorter"
            )
        self._words = _label_words(spec, encoder, f"tasks.{name}.labels")
        labels = tuple(spec.labels)
        kept = {"all": len(labels), "best": 1}.get(str(spec.scores), spec.scores)
        self._labelling = Labelling(labels, "single-label", int(kept), spec.threshold)
        self._prior = np.zeros(len(labels), np.float32)  # log shares of texts without content
        encoder.need_head("masked-lm")

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return label_fields(self.name, "single-label")

    def fingerprint(self) -> str:
        assert self._spec.labels is not None
        parameters = {
            "text": self._spec.text,
            "template": self._spec.template,
            "labels": [[label, list(words)] for label, words in self._spec.labels.items()],
            "calibrate": self._spec.calibrate,
            "scores": self._labelling.kept,
            "threshold": self._labelling.threshold,
        }
        return fingerprint("classify-cloze", CODE_VERSION, parameters, self.encoder.model, self.encoder.compute)

    def load(self) -> None:
        super().load()
        if self._spec.calibrate:
            nothing = Recalled(np.arange(len(WITHOUT_CONTENT)), list(WITHOUT_CONTENT), np.zeros((0, 2), np.uint64), [])
            done = self.compute(self.encoded(nothing))
            for sentence in done.errors.values():  # shares that are zeros would calibrate every row by nothing
                raise ModelError(f"tasks.{self.name} cannot be calibrated: {sentence}; see calibrate: false")
            self._prior = torch.from_numpy(done.scores).mean(dim=0).log().numpy()

    def encoded(self, recalled: Recalled) -> CutTexts:
        return CutTexts(recalled, *cloze_texts(recalled.texts, self._cloze, self.encoder.tokenizer))

    def prepare(self, encoded: CutTexts) -> Prepared[Scored]:
        lm = self.encoder.lm
        scores = np.zeros((len(encoded.sequences), len(self._words)), np.float32)

        def mask(sequences: TokenSequences) -> np.ndarray:
            return self._cloze.masks(sequences)

        def score(rows: np.ndarray, sequences: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
            prior = on_device(self._prior, states.device)
            for part, logits in lm.logits_of(states):
                shares = (self._log_means(logits) - prior).softmax(dim=-1)
                yield Made(scores, rows[part], shares)

        recalled, truncated = encoded.recalled.without_texts(), encoded.truncated

        def collect(report: BatchReport) -> Scored:
            return scored(recalled, truncated, scores, report, self.encoder.model.name)

        return Prepared(Request(encoded.sequences, mask, score, head="masked-lm"), collect)

    def _log_means(self, logits: torch.Tensor) -> torch.Tensor:
        """[m, vocabulary] to [m, labels]: log of the mean of each label's words, but for the softmax's divisor."""
        means = []
        for words in self._words:
            chosen = logits[:, on_device(words, logits.device)]
            means.append(chosen.logsumexp(dim=-1) - float(np.log(len(words))))
        return torch.stack(means, dim=-1)

    def finish(self, computed: Scored) -> TaskColumns:
        return label_columns(self.name, computed, self.repeats, self._labelling)


def _label_words(spec: Classify, encoder: SharedEncoder, key: str) -> list[np.ndarray]:
    """The vocabulary entries of each label's words. Raises JobError for a word that two labels have."""
    assert spec.labels is not None
    owner: dict[int, str] = {}
    found = []
    for label, words in spec.labels.items():
        entries = target_ids(words, encoder.tokenizer, f"{key}.{label}", encoder.model.name)
        for entry in entries.tolist():
            if entry in owner:
                word = encoder.tokenizer.words(np.array([entry]))[0].strip()
                raise JobError(
                    f"{key}: '{label}' and '{owner[entry]}' have a word in common ('{word}'); give it to one of them"
                )
            owner[entry] = label
        found.append(entries)
    return found
