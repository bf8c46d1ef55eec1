"""The best words for each `<mask>` of a text."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from secbatch.errors import UnfitModelError
from secbatch.models.batch_runner import BatchReport
from secbatch.models.generation_scores import largest
from secbatch.models.requests import Request
from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Made, on_device
from secbatch.models.untrusted_text import MASK
from secbatch.models.windows import MaskedTexts, around_masks
from secbatch.task_specs import FillMask
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import broken_scores, done_texts, without_failed
from secbatch.tasks.encoder_task import Prepared
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.mask_columns import mask_columns, mask_fields
from secbatch.tasks.mask_repeats import packed_masks, with_known_masks
from secbatch.tasks.repeats import Recalled
from secbatch.tasks.targets import target_ids
from secbatch.tasks.text_task import TextTask

CODE_VERSION = 1  # raise it when results change
PREDICTION_BYTES = 24  # of a word and its score, about: as numbers, and then as columns


@dataclass(frozen=True)
class EncodedMasks:
    """u distinct texts of a shard of n rows."""

    recalled: Recalled  # which text a row has: u of them are to be computed
    texts: MaskedTexts  # [u]


@dataclass(frozen=True)
class PredictedMasks:
    """Predictions for the M masks that the model saw, text by text."""

    recalled: Recalled  # which text a row has, without the texts themselves
    texts: MaskedTexts  # without their tokens
    ids: np.ndarray  # [M, k] int32 vocabulary entries, best first
    scores: np.ndarray  # [M, k] float32 probabilities
    errors: dict[int, str]  # text -> one sentence
    tokens: int
    padding: int


class FillMaskTask(TextTask[EncodedMasks, PredictedMasks]):
    """Predictions of a masked language model: probabilities from the full softmax, the best `top_k` of each mask.

    With `targets`, only those words are ranked, and their scores are still probabilities over the whole vocabulary.
    """

    containing = MASK

    def __init__(self, name: str, spec: FillMask, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """Raises JobError when the job does not fit the input or the model, ModelError for a broken one."""
        super().__init__(name, spec.text, schema, encoder)
        encoder.need_head("masked-lm")
        model = encoder.model
        self._spec = spec
        self._tokenizer = encoder.tokenizer
        if self._tokenizer.mask_id is None:
            raise UnfitModelError(f"model {model.name} has no mask token, so it cannot serve fill-mask (task {name})")
        self._targets = (
            target_ids(spec.targets, self._tokenizer, f"tasks.{name}.targets", model.name)
            if spec.targets is not None
            else None
        )

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return mask_fields(self.name)

    @property
    def row_bytes(self) -> int:
        return self._spec.top_k * PREDICTION_BYTES

    def fingerprint(self) -> str:
        targets = list(self._spec.targets) if self._spec.targets is not None else None
        parameters = {"text": self._spec.text, "top_k": self._spec.top_k, "targets": targets}
        return fingerprint("fill-mask", CODE_VERSION, parameters, self.encoder.model, self.encoder.compute)

    def encoded(self, recalled: Recalled) -> EncodedMasks:
        return EncodedMasks(recalled, around_masks(recalled.texts, self._tokenizer))

    def prepare(self, encoded: EncodedMasks) -> Prepared[PredictedMasks]:
        lm, texts = self.encoder.lm, encoded.texts
        recalled, facts = encoded.recalled.without_texts(), texts.without_tokens()
        first = np.concatenate([[0], np.cumsum(texts.seen)])  # [u + 1] place of each text's first mask
        k = min(self._spec.top_k, len(self._targets) if self._targets is not None else lm.vocabulary)
        best = np.zeros((int(first[-1]), k), np.int32)
        scores = np.zeros((int(first[-1]), k), np.float32)

        def masks(sequences: TokenSequences) -> np.ndarray:
            return np.flatnonzero(sequences.ids == self._tokenizer.mask_id)

        def predict(rows: np.ndarray, sequences: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
            places = spans(first[:-1][rows], texts.seen[rows])
            for part, logits in lm.logits_of(states):
                found, probabilities = self._best(logits, k)
                yield Made(best, places[part], found)
                yield Made(scores, places[part], probabilities)

        def collect(report: BatchReport) -> PredictedMasks:
            errors = report.errors | self._not_finite(scores, facts)
            return PredictedMasks(recalled, facts, best, scores, errors, report.tokens, report.padding)

        return Prepared(Request(texts.sequences, masks, predict, head="masked-lm"), collect)

    def _not_finite(self, scores: np.ndarray, texts: MaskedTexts) -> dict[int, str]:
        finite = np.isfinite(scores).all(axis=1)
        owners = np.repeat(np.arange(len(texts.seen)), texts.seen)[~finite]
        return dict.fromkeys(owners.tolist(), broken_scores(self.encoder.model.name))

    def _best(self, logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[m, vocabulary] float32 logits, which are overwritten, to the k best ids and probabilities, [m, k] each."""
        if self._targets is None:
            best, indices = largest(logits, k)
            highest = best[:, :1]
        else:
            targets = on_device(self._targets, logits.device)
            best, places = logits[:, targets].topk(k, dim=-1)
            indices, highest = targets[places], logits.amax(dim=-1, keepdim=True)
        # The softmax's divisor. In place: logits of a batch are 50 MB, whose fresh copy costs as much as the sum.
        total = logits.sub_(highest).exp_().sum(dim=-1, keepdim=True)
        return indices, (best - highest).exp_() / total

    def finish(self, computed: PredictedMasks) -> TaskColumns:
        recalled, texts = computed.recalled, computed.texts
        ids, scores = computed.ids, computed.scores
        rows, errors = without_failed(recalled.rows, computed.errors)
        if len(recalled.keys):
            good = done_texts(len(texts.seen), computed.errors)
            self.repeats.add(recalled.keys[good], *packed_masks(texts, ids, scores, good))
        if recalled.results:
            texts, ids, scores = with_known_masks(texts, ids, scores, recalled.results)
        columns = mask_columns(self.name, rows, texts, ids, scores, self._tokenizer)
        return TaskColumns(columns, errors, computed.tokens, computed.padding)
