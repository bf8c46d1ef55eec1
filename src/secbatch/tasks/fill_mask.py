"""The best words for each `<mask>` of a text."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from secbatch.errors import ModelError
from secbatch.job import FillMask
from secbatch.models.batch_runner import BatchRunner
from secbatch.models.device import Compute
from secbatch.models.encoder import MaskedLM
from secbatch.models.load import check_vocabulary, load_model, load_tokenizer
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.untrusted_text import MASK
from secbatch.models.windows import MaskedTexts, around_masks
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.mask_columns import mask_columns, mask_fields
from secbatch.tasks.targets import target_ids
from secbatch.tasks.text import DistinctTexts, TextSource

CODE_VERSION = 1  # raise it when results change


@dataclass(frozen=True)
class EncodedMasks:
    """u distinct texts of a shard of n rows."""

    rows: np.ndarray  # [n] int64: which text a row has, -1 for nothing to do
    texts: MaskedTexts


@dataclass(frozen=True)
class PredictedMasks:
    """Predictions for the M masks that the model saw, text by text."""

    encoded: EncodedMasks
    ids: np.ndarray  # [M, k] int32 vocabulary entries, best first
    scores: np.ndarray  # [M, k] float32 probabilities
    errors: dict[int, str] = field(default_factory=dict)  # text -> one sentence
    tokens: int = 0
    padding: int = 0


class FillMaskTask:
    """Predictions of a masked language model: probabilities from the full softmax, the best `top_k` of each mask.

    Identical texts of a shard are computed once. With `targets`, only those words are ranked, and their
    scores are still probabilities over the whole vocabulary.
    """

    def __init__(self, name: str, spec: FillMask, schema: pa.Schema, model: ResolvedModel, compute: Compute) -> None:
        """Raises JobError when the job does not fit the input or the model, ModelError for a broken one."""
        self.name = name
        self._spec = spec
        self._model = model
        self._compute = compute
        self._text = TextSource.of(spec.text, schema, f"tasks.{name}.text")
        self.reads = self._text.columns
        self._tokenizer = load_tokenizer(model)
        if self._tokenizer.mask_id is None:
            raise ModelError(f"model {model.name} has no mask token, so it cannot serve fill-mask (task {name})")
        self._targets = (
            target_ids(spec.targets, self._tokenizer, f"tasks.{name}.targets", model.name)
            if spec.targets is not None
            else None
        )
        self._runner = BatchRunner(compute)
        self._lm: MaskedLM | None = None
        self.notices = compute.notices

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return mask_fields(self.name)

    def fingerprint(self) -> str:
        targets = list(self._spec.targets) if self._spec.targets is not None else None
        parameters = {"text": self._spec.text, "top_k": self._spec.top_k, "targets": targets}
        return fingerprint("fill-mask", CODE_VERSION, parameters, self._model, self._compute)

    def load(self) -> None:
        loaded = load_model(self._model, "masked-lm", self._compute)
        check_vocabulary(self._model, self._tokenizer, loaded.model)
        self._lm = MaskedLM(loaded, self._tokenizer.pad_id, self._compute)
        self.notices = (*self._compute.notices, *loaded.notices)

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> EncodedMasks:
        texts = DistinctTexts.of(self._text.render(table), usable, containing=MASK)
        return EncodedMasks(texts.rows, around_masks(texts.texts, self._tokenizer))

    def compute(self, encoded: EncodedMasks) -> PredictedMasks:
        assert self._lm is not None, "load() comes before compute()"
        lm, texts = self._lm, encoded.texts
        first = np.concatenate([[0], np.cumsum(texts.seen)])  # [u + 1] place of each text's first mask
        k = min(self._spec.top_k, len(self._targets) if self._targets is not None else lm.vocabulary)
        best = np.zeros((int(first[-1]), k), np.int32)
        scores = np.zeros((int(first[-1]), k), np.float32)

        def predict(rows: np.ndarray, batch: TokenSequences) -> None:
            positions = np.flatnonzero(batch.ids == self._tokenizer.mask_id)
            places = spans(first[:-1][rows], texts.seen[rows])
            for part, logits in lm.logits(batch, positions):
                found, probabilities = self._best(logits, k)
                best[places[part]] = found.cpu().numpy()
                scores[places[part]] = probabilities.cpu().numpy()

        report = self._runner.run(texts.sequences, not lm.packed, predict)
        finite = np.isfinite(scores).all(axis=1)
        if not finite.all():
            owners = np.repeat(np.arange(len(texts.seen)), texts.seen)[~finite]
            report.errors.update(
                dict.fromkeys(
                    owners.tolist(),
                    f"model {self._model.name} gave scores that are no numbers (its weights may be broken)",
                )
            )
        return PredictedMasks(encoded, best, scores, report.errors, report.tokens, report.padding)

    def _best(self, logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[m, vocabulary] float32 logits to the k best ids and their probabilities, [m, k] each."""
        total = torch.logsumexp(logits, dim=-1, keepdim=True)
        if self._targets is None:
            top = logits.topk(k, dim=-1)
            return top.indices, (top.values - total).exp()
        targets = torch.from_numpy(self._targets).to(logits.device)
        top = logits[:, targets].topk(k, dim=-1)
        return targets[top.indices], (top.values - total).exp()

    def finish(self, computed: PredictedMasks) -> TaskColumns:
        rows = computed.encoded.rows
        errors = {
            int(row): computed.errors[int(rows[row])] for row in np.flatnonzero(np.isin(rows, list(computed.errors)))
        }
        if errors:
            rows = rows.copy()
            rows[list(errors)] = -1
        columns = mask_columns(self.name, rows, computed.encoded.texts, computed.ids, computed.scores, self._tokenizer)
        return TaskColumns(columns, errors, computed.tokens, computed.padding)
