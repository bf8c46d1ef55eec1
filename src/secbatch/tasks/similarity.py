"""The rows of a reference that are nearest to each text, by their vectors."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from secbatch.models.batch_runner import BatchReport
from secbatch.models.nearest import NearestRows
from secbatch.models.published_vectors import departures
from secbatch.models.sequences import spans
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.windows import from_start
from secbatch.task_specs import Similarity
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import EncodedTexts, done_texts, without_failed
from secbatch.tasks.encoder_task import Prepared
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.pooling import not_finite, pooling_request
from secbatch.tasks.reference import read_reference
from secbatch.tasks.reference_vectors import reference_vectors
from secbatch.tasks.repeats import Recalled
from secbatch.tasks.row_arrays import offsets, spread
from secbatch.tasks.text_task import TextTask

CODE_VERSION = 1  # raise it when results change

NEARLY_ONE = 1 - 1e-5  # the cosine of equal vectors may be so far below 1 by rounding

_NEAR = pa.struct([pa.field("id", pa.string()), pa.field("score", pa.float32())])


@dataclass(frozen=True)
class Compared:
    """The k nearest rows of the reference for each of u texts, best first."""

    recalled: Recalled  # which text a row has, without the texts themselves
    near: np.ndarray  # [u, k] int64, rows of the reference
    scores: np.ndarray  # [u, k] float32
    errors: dict[int, str]  # text -> one sentence
    tokens: int
    padding: int


class SimilarityTask(TextTask[EncodedTexts, Compared]):
    """Inner products of vectors as `embed` makes them, of length 1 unless the job says otherwise: then cosines.

    Exact; equal scores are ranked in the order of the reference. The vectors of the reference are made once a run.
    """

    def __init__(self, name: str, spec: Similarity, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """Raises JobError when the job does not fit the input, InputError for a reference that cannot be used."""
        super().__init__(name, spec.text, schema, encoder)
        encoder.need_states()
        self._spec = spec
        self._reference = read_reference(spec.reference, f"tasks.{name}.reference")
        self._count = min(spec.top_k, len(self._reference))
        self._least = spec.threshold  # the least score that counts
        if self._least is not None and spec.normalize:
            self._least = min(self._least, NEARLY_ONE)
        self._nearest: NearestRows | None = None
        self._width = 0
        self._said = departures(encoder.model, spec.pooling, spec.normalize, encoder.tokenizer.max_length)

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self.encoder.notices, *self._said)

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return (
            pa.field(self.name, pa.list_(_NEAR)),
            pa.field(f"{self.name}_top", pa.string()),
            pa.field(f"{self.name}_score", pa.float32()),
        )

    def fingerprint(self) -> str:
        parameters = {
            "text": self._spec.text,
            "pooling": self._spec.pooling,
            "normalize": self._spec.normalize,
            "top_k": self._spec.top_k,
            "threshold": self._least,
            "reference": self._reference.digest(),
        }
        return fingerprint("similarity", CODE_VERSION, parameters, self.encoder.model, self.encoder.compute)

    def load(self) -> None:
        super().load()
        self._width = self.encoder.width()
        if self._nearest is None:
            made = reference_vectors(
                self._reference, self.encoder, self._width, self._spec.pooling, self._spec.normalize
            )
            self._nearest = NearestRows(made, self.encoder.compute.device)

    @property
    def remembers(self) -> bool:
        """Whether a result may stand for later rows with the same text; see `SharedEncoder.batch_free`."""
        whole = self._nearest is None or self._nearest.batch_free or self.encoder.compute.dtype != "float32"
        return self.encoder.batch_free and whole

    def encoded(self, recalled: Recalled) -> EncodedTexts:
        return EncodedTexts(recalled, from_start(recalled.texts, self.encoder.tokenizer))

    def prepare(self, encoded: EncodedTexts) -> Prepared[Compared]:
        assert self._nearest is not None, "load() comes first"
        nearest = self._nearest
        vectors = np.zeros((len(encoded.sequences), self._width), np.float32)
        request = pooling_request(encoded.sequences, vectors, self._spec.pooling, self._spec.normalize)

        recalled = encoded.recalled.without_texts()

        def collect(report: BatchReport) -> Compared:
            errors = report.errors | not_finite(vectors, self.encoder.model.name)
            vectors[list(errors)] = 0
            scores, near = nearest.best(vectors, self._count)
            infinite = np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist()
            errors |= dict.fromkeys(infinite, "its products with the reference are no numbers (use normalize: true)")
            return Compared(recalled, near, scores, errors, report.tokens, report.padding)

        return Prepared(request, collect)

    def finish(self, computed: Compared) -> TaskColumns:
        recalled, near, scores = computed.recalled, computed.near, computed.scores
        rows, errors = without_failed(recalled.rows, computed.errors)
        if len(recalled.keys):
            good = done_texts(len(near), computed.errors)
            packed = np.concatenate([near[good].view(np.uint8), scores[good].view(np.uint8)], axis=1)
            self.repeats.add(recalled.keys[good], packed.reshape(-1), np.full(len(packed), packed.shape[1]))
        if recalled.results:
            known = np.frombuffer(b"".join(recalled.results), np.uint8).reshape(len(recalled.results), -1)
            split = self._count * near.itemsize
            near = np.concatenate([near, np.ascontiguousarray(known[:, :split]).view(np.int64)])
            scores = np.concatenate([scores, np.ascontiguousarray(known[:, split:]).view(np.float32)])
        return TaskColumns(self._columns(rows, near, scores), errors, computed.tokens, computed.padding)

    def _columns(self, rows: np.ndarray, near: np.ndarray, scores: np.ndarray) -> dict[str, pa.Array]:
        """Columns of n rows. `rows`: [n] which text a row has, -1 for none; `near`, `scores`: [texts, k]."""
        every = np.full(len(near), near.shape[1])
        enough = every if self._least is None else (scores >= self._least).sum(axis=1)
        done = rows >= 0
        text = rows[done]
        lengths = spread(enough[text], done)
        flat = spans(text * near.shape[1], enough[text])  # of each row, its best ones
        ids = self._reference.ids.take(pa.array(near.reshape(-1)[flat]))
        each = pa.StructArray.from_arrays([ids, pa.array(scores.reshape(-1)[flat])], fields=list(_NEAR))
        best, best_score = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float32)
        some = lengths > 0
        best[some], best_score[some] = near[rows[some], 0], scores[rows[some], 0]
        return {
            self.name: pa.ListArray.from_arrays(offsets(lengths), each, mask=pa.array(~done)),
            f"{self.name}_top": self._reference.ids.take(pa.array(best, mask=~some)),
            f"{self.name}_score": pa.array(best_score, mask=~some),
        }
