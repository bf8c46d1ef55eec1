"""A masked language model that costs nothing, to measure what surrounds a model.

Everything but the forward is the product's own: reading, identity, tokenising, planning batches, laying them end to
end, building columns, writing. The forward hands out predictions from a pool.
"""

import json
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from secbatch.models.batch_runner import BatchReport, BatchRunner
from secbatch.models.requests import Request
from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.transfer import AHEAD, Made
from secbatch.tasks.embed import Embedded, EmbedTask
from secbatch.tasks.encoded_texts import EncodedTexts
from secbatch.tasks.encoder_task import Prepared
from secbatch.tasks.fill_mask import EncodedMasks, FillMaskTask, PredictedMasks

PREDICTIONS = 10
POOL = 8192  # different predictions, or vectors
WIDTH = 768  # of a vector
CALLS = 200  # that begin a batch on a GPU
_OPERAND = torch.ones(8, 8)


@dataclass
class NullDevice:
    """How fast the pretended device is, and when it was at work.

    As a GPU, it has batches ahead, each of which is begun by many calls that let go of Python's interpreter and want it
    back, while other threads want it, too.
    """

    rows_per_second: float | None = None  # None: it costs nothing
    first: float = 0.0  # clock when it was first given work
    last: float = 0.0  # and when it will be done with all it has
    busy: float = 0.0  # seconds
    _ends: deque[float] = field(default_factory=deque)  # of the batches that it has

    def begin(self, rows: int) -> None:
        """Returns when a batch is on its way to the device."""
        if self.rows_per_second is None:
            return
        if len(self._ends) > AHEAD:
            time.sleep(max(self._ends.popleft() - time.perf_counter(), 0.0))
        with torch.inference_mode():
            for _ in range(CALLS):
                torch.nn.functional.linear(_OPERAND, _OPERAND)
        now, seconds = time.perf_counter(), rows / self.rows_per_second
        self.first = self.first or now
        self.last = max(now, self.last) + seconds
        self.busy += seconds
        self._ends.append(self.last)

    @property
    def busy_share(self) -> float:
        """Of the time between its first and its last work."""
        return min(self.busy / max(self.last - self.first, 1e-9), 1.0)  # sums of fractions round


class NullEncoder(SharedEncoder):
    """An encoder without weights, whose states are nothing."""

    device = NullDevice()

    def load(self) -> None:
        pass

    def launch(self, requests: Sequence[Request], owners: Sequence[SharedEncoder] | None = None) -> list[BatchReport]:
        (request,) = requests
        nothing = torch.empty(0)

        def work(rows: np.ndarray, batch: TokenSequences) -> Iterable[Made]:
            self.device.begin(len(rows))
            return request.consume(rows, batch, nothing)

        return [self._runner.run(request.sequences, False, work)]


class NullMaskTask(FillMaskTask):
    """Fill-mask whose forward hands out predictions from a pool."""

    def load(self) -> None:
        draw = np.random.default_rng(0)
        common = draw.zipf(1.3, (POOL, PREDICTIONS)) % 3000  # few words often, many now and then, as a model does
        self._pool_ids = (100 + common).astype(np.int32)
        scores = np.sort(draw.dirichlet(np.ones(PREDICTIONS), POOL), axis=1)[:, ::-1]
        self._pool_scores = scores.astype(np.float32)

    def prepare(self, encoded: EncodedMasks) -> Prepared[PredictedMasks]:
        texts = encoded.texts
        first = np.concatenate([[0], np.cumsum(texts.seen)])
        best = np.zeros((int(first[-1]), PREDICTIONS), np.int32)
        scores = np.zeros((int(first[-1]), PREDICTIONS), np.float32)

        def masks(sequences: TokenSequences) -> np.ndarray:
            return np.flatnonzero(sequences.ids == self._tokenizer.mask_id)

        def predict(rows: np.ndarray, batch: TokenSequences, states: torch.Tensor) -> tuple[()]:
            places = spans(first[:-1][rows], texts.seen[rows])
            assert len(masks(batch)) == len(places)
            best[places], scores[places] = self._pool_ids[places % POOL], self._pool_scores[places % POOL]
            return ()

        recalled, facts = encoded.recalled.without_texts(), texts.without_tokens()

        def collect(report: BatchReport) -> PredictedMasks:
            return PredictedMasks(recalled, facts, best, scores, report.errors, report.tokens, report.padding)

        return Prepared(Request(texts.sequences, masks, predict, head="masked-lm"), collect)


class NullEmbedTask(EmbedTask):
    """Embeddings whose forward hands out vectors from a pool."""

    row_bytes = 4 * WIDTH

    def load(self) -> None:
        self._width = WIDTH
        self._pool = np.random.default_rng(0).standard_normal((POOL, WIDTH), np.float32)

    def prepare(self, encoded: EncodedTexts) -> Prepared[Embedded]:
        vectors = np.zeros((len(encoded.sequences), WIDTH), np.float32)

        def pool(rows: np.ndarray, batch: TokenSequences, states: torch.Tensor) -> tuple[()]:
            vectors[rows] = self._pool[rows % POOL]
            return ()

        recalled = encoded.recalled.without_texts()

        def collect(report: BatchReport) -> Embedded:
            return Embedded(recalled, vectors, report.errors, report.tokens, report.padding)

        return Prepared(Request(encoded.sequences, lambda batch: None, pool), collect)


@contextmanager
def null_tasks(device: NullDevice, token_budget: int | None = None) -> Iterator[None]:
    """Inside it, every fill-mask and embed task of a job has the null model.

    `token_budget`: of a batch, as on a CPU if None.
    """

    def build(name: str, spec: Any, schema: Any, model: Any, compute: Any, encoders: Any) -> FillMaskTask | EmbedTask:
        encoder = NullEncoder(model, compute)
        encoder.device = device
        encoder._runner = BatchRunner(compute, token_budget)
        return (NullMaskTask if spec.type == "fill-mask" else NullEmbedTask)(name, spec, schema, encoder)

    with patch("secbatch.worker.build_task", build):
        yield


def model_folder(tokenizer: Path | None, target: Path) -> Path:
    """A model folder that has a tokenizer and no weights to speak of; `tokenizer` None: the built-in model's."""
    import secbatch.builtin

    origin = tokenizer or Path(next(iter(secbatch.builtin.__path__))) / "mlm"
    target.mkdir(parents=True)
    for file in origin.iterdir():
        if file.name in ("vocab.json", "merges.txt", "vocab.txt") or file.name.startswith(("tokenizer", "special_")):
            shutil.copy(file, target / file.name)
    config = origin / "config.json"
    roberta = {
        "model_type": "roberta",
        "architectures": ["RobertaForMaskedLM"],
        "max_position_embeddings": 514,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "type_vocab_size": 1,
        "vocab_size": 50265,
    }
    (target / "config.json").write_text(config.read_text() if config.is_file() else json.dumps(roberta))
    (target / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return target


def tokenizer_of(folder: Path) -> TextTokenizer:
    from secbatch.models.resolve import resolve
    from secbatch.models.tokenizer_files import load_tokenizer

    return load_tokenizer(resolve(str(folder)))
