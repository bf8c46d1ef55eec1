"""One vector a text: `last_hidden_state`, pooled."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from secbatch.errors import JobError
from secbatch.job import Embed
from secbatch.models.batch_runner import BatchRunner
from secbatch.models.device import Compute
from secbatch.models.encoder import HiddenStates, hidden_states
from secbatch.models.load import check_vocabulary, load_config, load_model, load_tokenizer
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.windows import from_start
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.fingerprint import fingerprint
from secbatch.tasks.text import DistinctTexts, TextSource

CODE_VERSION = 1  # raise it when results change


@dataclass(frozen=True)
class EncodedTexts:
    """u distinct texts of a shard of n rows."""

    rows: np.ndarray  # [n] int64: which text a row has, -1 for nothing to do
    sequences: TokenSequences  # [u]


@dataclass(frozen=True)
class Embedded:
    encoded: EncodedTexts
    vectors: np.ndarray  # [u, hidden] float32
    errors: dict[int, str] = field(default_factory=dict)  # text -> one sentence
    tokens: int = 0
    padding: int = 0


class EmbedTask:
    """Embeddings of an encoder. Identical texts of a shard are computed once.

    Mean pooling is over all tokens that the model sees, special ones included, as sentence-transformers does;
    a text longer than the model's positions is represented by its beginning.
    """

    def __init__(self, name: str, spec: Embed, schema: pa.Schema, model: ResolvedModel, compute: Compute) -> None:
        """Raises JobError when the job does not fit the input or the model, ModelError for a broken one."""
        self.name = name
        self._spec = spec
        self._model = model
        self._compute = compute
        self._text = TextSource.of(spec.text, schema, f"tasks.{name}.text")
        self.reads = self._text.columns
        self._check_dimension(getattr(load_config(model), "hidden_size", None))
        self._tokenizer = load_tokenizer(model)
        self._runner = BatchRunner(compute)
        self._hidden: HiddenStates | None = None
        self._width = 0
        self.notices = compute.notices

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return (pa.field(self.name, pa.list_(pa.float32())),)

    def fingerprint(self) -> str:
        parameters = {
            "text": self._spec.text,
            "pooling": self._spec.pooling,
            "normalize": self._spec.normalize,
        }
        return fingerprint("embed", CODE_VERSION, parameters, self._model, self._compute)

    def load(self) -> None:
        loaded = load_model(self._model, "encoder", self._compute)
        check_vocabulary(self._model, self._tokenizer, loaded.model)
        self._hidden = hidden_states(loaded.model, self._tokenizer.pad_id, self._compute)
        with torch.inference_mode():
            self._width = self._hidden(self._tokenizer.encode(["a"])).shape[-1]
        self._check_dimension(self._width)
        self.notices = (*self._compute.notices, *loaded.notices)

    def _check_dimension(self, width: int | None) -> None:
        wanted = self._spec.dimension
        if wanted is not None and width is not None and width != wanted:
            raise JobError(
                f"tasks.{self.name}.dimension is {wanted}, but vectors of model {self._model.name} have {width}"
            )

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> EncodedTexts:
        texts = DistinctTexts.of(self._text.render(table), usable)
        return EncodedTexts(texts.rows, from_start(texts.texts, self._tokenizer))

    def compute(self, encoded: EncodedTexts) -> Embedded:
        assert self._hidden is not None, "load() comes before compute()"
        hidden = self._hidden
        vectors = np.zeros((len(encoded.sequences), self._width), np.float32)

        def embed(rows: np.ndarray, batch: TokenSequences) -> None:
            vectors[rows] = self._pool(hidden(batch), batch).cpu().numpy()

        report = self._runner.run(encoded.sequences, not hidden.packed, embed)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        report.errors.update(
            dict.fromkeys(broken, f"model {self._model.name} gave a vector with values that are no numbers")
        )
        return Embedded(encoded, vectors, report.errors, report.tokens, report.padding)

    def _pool(self, states: torch.Tensor, batch: TokenSequences) -> torch.Tensor:
        """[T, hidden] to one float32 vector a sequence, [rows, hidden]."""
        if self._spec.pooling == "first":
            pooled = states[torch.from_numpy(batch.offsets[:-1]).to(states.device)].float()
        else:
            # Sequences of one length are a [count, length, hidden] view.
            pooled = torch.cat(
                [
                    states[first : first + count * length].view(count, length, -1).float().mean(dim=1)
                    for first, count, length in batch.groups()
                ]
            )
        return torch.nn.functional.normalize(pooled, dim=-1) if self._spec.normalize else pooled

    def finish(self, computed: Embedded) -> TaskColumns:
        rows = computed.encoded.rows
        failed = np.isin(rows, list(computed.errors))
        errors = {int(row): computed.errors[int(rows[row])] for row in np.flatnonzero(failed)}
        done = (rows >= 0) & ~failed
        lengths = np.where(done, computed.vectors.shape[1], 0)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        column = pa.ListArray.from_arrays(offsets, pa.array(computed.vectors[rows[done]].ravel()), mask=pa.array(~done))
        return TaskColumns({self.name: column}, errors, computed.tokens, computed.padding)
