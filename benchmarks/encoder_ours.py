"""secbatch's side of the encoder benchmark: whole jobs from CSV to Parquet, and the model stage by itself."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from secbatch import running
from secbatch.job import Input, Job, Output
from secbatch.models.device import choose
from secbatch.models.resolve import resolve
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.runner import run_job
from secbatch.task_specs import Embed, FillMask
from secbatch.tasks.embed import EmbedTask
from secbatch.tasks.fill_mask import FillMaskTask

TOP_K = 10


def task_spec(task: str, model: Path | str) -> FillMask | Embed:
    if task == "fill-mask":
        return FillMask(type="fill-mask", model=str(model), text="sentence", top_k=TOP_K)
    return Embed(type="embed", model=str(model), text="sentence", pooling="mean")


@dataclass(frozen=True)
class EndToEnd:
    """One run of a job. Seconds."""

    rows: int
    starting: float  # resolving and hashing the model, its tokenizer, its weights: once a run
    steady: float  # all the rest, from the first byte of CSV to the published Parquet
    device: float  # of it, the stage that computes
    tokens: int
    padding: int
    stages: dict[str, float]  # seconds of each stage; they overlap


def end_to_end(task: str, model: Path | str, source: Path, output: Path, device: str, precision: Any) -> EndToEnd:
    shutil.rmtree(output, ignore_errors=True)
    job = Job(
        name="encoder",
        input=Input(path=str(source)),
        tasks={"x": task_spec(task, model)},
        output=Output(path=str(output)),
        device=device,
        precision=precision,
    )
    spent: list[float] = []

    def timed_set_up(*arguments: Any) -> Any:
        begin = time.monotonic()
        try:
            return original(*arguments)
        finally:
            spent.append(time.monotonic() - begin)

    original = running.set_up
    with patch("secbatch.running.set_up", timed_set_up):
        result = run_job(job)
    if result.rejected or result.enriched != result.read:
        raise SystemExit(f"{result.rejected} of {result.read} rows were rejected: these are no sentences to time with.")
    starting = sum(spent) + result.timings["load"]
    steady = result.seconds - starting
    return EndToEnd(
        result.enriched, starting, steady, result.timings["device"], result.tokens, result.padding, result.timings
    )


class ModelAlone:
    """A task's model over sentences that are tokenised already, with nothing beside it."""

    def __init__(self, task: str, model: Path, sentences: list[str], device: str, precision: str) -> None:
        table = pa.table({"sentence": sentences})
        self.encoder = encoder = SharedEncoder(resolve(str(model)), choose(device, precision))
        spec = task_spec(task, model)
        self._task: Any = (FillMaskTask if task == "fill-mask" else EmbedTask)("x", spec, table.schema, encoder)  # type: ignore[arg-type]
        self._task.load()
        ids, usable = pa.array([str(n) for n in range(len(sentences))]), pa.array([True] * len(sentences))
        encoded: Any = self._task.encode(table, ids, usable)
        sequences = encoded.texts.sequences if task == "fill-mask" else encoded.sequences
        self._encoded, self.sequences, self.tokens = encoded, sequences, len(sequences.ids)

    def seconds(self) -> float:
        begin = time.perf_counter()
        self._task.compute(self._encoded)  # it ends with numbers on the host, so a GPU has finished
        return time.perf_counter() - begin

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """([m, k] ids, [m, k] scores) of fill-mask; (empty, [n, hidden] vectors) of embed."""
        computed = self._task.compute(self._encoded)
        if hasattr(computed, "scores"):
            return computed.ids, computed.scores
        return np.zeros(0, np.int32), computed.vectors


def largest_difference(one: ModelAlone, other: ModelAlone) -> tuple[float, int]:
    """(largest difference of scores or values, predictions whose word differs: it is left out of the former)."""
    (ids, scores), (other_ids, other_scores) = one.numbers(), other.numbers()
    same = ids == other_ids if len(ids) else np.ones(scores.shape, bool)
    return float(np.abs(scores - other_scores)[same].max()), int((~same).sum())
