"""One vector a text: `last_hidden_state`, pooled."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from secbatch.errors import JobError
from secbatch.models.batch_runner import BatchReport
from secbatch.models.configuration import load_config
from secbatch.models.published_vectors import departures
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.windows import from_start
from secbatch.task_specs import Embed
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.encoded_texts import EncodedTexts, without_failed
from secbatch.tasks.encoder_task import Prepared
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.pooling import not_finite, pooling_request
from secbatch.tasks.repeats import Recalled, Repeats
from secbatch.tasks.row_arrays import offsets
from secbatch.tasks.text_task import TextTask

CODE_VERSION = 1  # raise it when results change


@dataclass(frozen=True)
class Embedded:
    recalled: Recalled  # which text a row has, without the texts themselves
    vectors: np.ndarray  # [u, hidden] float32
    errors: dict[int, str]  # text -> one sentence
    tokens: int
    padding: int


class EmbedTask(TextTask[EncodedTexts, Embedded]):
    """Embeddings of an encoder.

    Mean pooling is over all tokens that the model sees, special ones included, as sentence-transformers does;
    a text longer than the model's positions is represented by its beginning.
    """

    def __init__(self, name: str, spec: Embed, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """Raises JobError when the job does not fit the input or the model, ModelError for a broken one."""
        super().__init__(name, spec.text, schema, encoder)
        encoder.need_states()
        self._spec = spec
        width = getattr(load_config(encoder.model), "hidden_size", None)
        self._width = width if isinstance(width, int) else 0  # until its weights are there
        self._check_dimension(self._width)
        self._said = departures(encoder.model, spec.pooling, spec.normalize, encoder.tokenizer.max_length)
        if encoder.compute.device.startswith("cuda"):  # it computes a vector in less time than a file remembers it
            self.repeats = Repeats(None)

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self.encoder.notices, *self._said)

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return (pa.field(self.name, pa.list_(pa.float32())),)

    def fingerprint(self) -> str:
        parameters = {
            "text": self._spec.text,
            "pooling": self._spec.pooling,
            "normalize": self._spec.normalize,
        }
        return fingerprint("embed", CODE_VERSION, parameters, self.encoder.model, self.encoder.compute)

    def load(self) -> None:
        super().load()
        self._width = self.encoder.width()
        self._check_dimension(self._width)

    @property
    def row_bytes(self) -> int:
        return self._width * np.dtype(np.float32).itemsize

    def _check_dimension(self, width: int) -> None:
        wanted = self._spec.dimension
        if wanted is not None and width and width != wanted:
            raise JobError(
                f"tasks.{self.name}.dimension is {wanted}, but vectors of model {self.encoder.model.name} have {width}"
            )

    @property
    def remembers(self) -> bool:
        return self.encoder.batch_free and self.repeats.remembers

    def encoded(self, recalled: Recalled) -> EncodedTexts:
        return EncodedTexts(recalled, from_start(recalled.texts, self.encoder.tokenizer))

    def prepare(self, encoded: EncodedTexts) -> Prepared[Embedded]:
        vectors = np.zeros((len(encoded.sequences), self._width), np.float32)
        request = pooling_request(encoded.sequences, vectors, self._spec.pooling, self._spec.normalize)

        recalled = encoded.recalled.without_texts()

        def collect(report: BatchReport) -> Embedded:
            errors = report.errors | not_finite(vectors, self.encoder.model.name)
            return Embedded(recalled, vectors, errors, report.tokens, report.padding)

        return Prepared(request, collect)

    def finish(self, computed: Embedded) -> TaskColumns:
        recalled, vectors = computed.recalled, computed.vectors
        rows, errors = without_failed(recalled.rows, computed.errors)
        if len(recalled.keys):
            keys, good = recalled.keys, vectors
            if computed.errors:
                keys, good = (np.delete(values, list(computed.errors), axis=0) for values in (keys, vectors))
            sizes = np.full(len(good), good.shape[1] * good.itemsize)
            self.repeats.add(keys, good.reshape(-1).view(np.uint8), sizes)
        if recalled.results:
            known = np.frombuffer(b"".join(recalled.results), np.float32).reshape(-1, vectors.shape[1])
            vectors = np.concatenate([vectors, known])
        done = rows >= 0
        lengths = np.where(done, vectors.shape[1], 0)
        chosen = rows[done]
        if not np.array_equal(chosen, np.arange(len(vectors))):  # else they stand as they are to stand: no copy
            vectors = vectors[chosen]
        column = pa.ListArray.from_arrays(offsets(lengths), pa.array(vectors.ravel()), mask=pa.array(~done))
        return TaskColumns({self.name: column}, errors, computed.tokens, computed.padding)
