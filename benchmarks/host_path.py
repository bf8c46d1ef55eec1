"""What everything around the model costs: python benchmarks/host_path.py [--rows N] [--tokenizer DIR] …

A file goes through `run_job` to Parquet with a model that costs nothing and gives 10 predictions a row (or a vector
of 768 numbers, `--task embed`); beside it, in the same run, the tokenizer's own `encode_batch_fast` on the same
sentences. Prints the ratio of the two, where the processor's time goes, and how busy a pretended device is kept.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # this and the next as the command line has them
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from exports import FORMATS, write_export
from null_model import PREDICTIONS, NullDevice, model_folder, null_tasks, tokenizer_of
from sentences import distinct_sentences

from secbatch.job import Input, Job, Output
from secbatch.reporting import Reporter
from secbatch.runner import RunResult, run_job
from secbatch.task_specs import Embed, FillMask

# Rows of a run's shards and tokens of a batch, as the runner has them on a GPU and on this machine's CPU.
SETTINGS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "gpu": ((128, 512, 2048, 0), 131_072),
    "cpu": ((128, 512, 2048), None),
    "steady": ((16_384,), 131_072),  # shards of one size: how a long run goes on after its start
}
PEER_BATCHES = (1024, 4096, 16_384)  # the tokenizer alone is given the best of these
TASKS = ("fill-mask", "embed", "both")
STAGE_ROWS = 60_000  # of the run that shows stages
# Where the time of a stage is spent; a stage inside another counts for itself alone.
STAGES: dict[str, tuple[str, ...]] = {
    "set-up": ("secbatch.running:set_up",),
    "read": ("secbatch.sources.open:Source.shards",),
    "names of rows": ("secbatch.identity:Identities.name",),
    "look up what is done": ("secbatch.reuse:Reuse.look", "secbatch.reuse:Reuse.key", "secbatch.reuse:Reuse.work"),
    "render, distinct": ("secbatch.tasks.text:DistinctTexts.of", "secbatch.tasks.text:TextSource.render"),
    "tokenise": ("secbatch.models.tokenizer:TextTokenizer.encode",),
    "masks, windows": ("secbatch.tasks.fill_mask:around_masks", "secbatch.tasks.embed:from_start"),
    "plan, lay out": ("secbatch.models.batch_runner:BatchRunner.run",),
    "columns": ("secbatch.worker:Worker.finish",),
    "checkpoint": ("secbatch.shard_stages:write_checkpoint",),
    "ledger": ("secbatch.store.ledger:Ledger.add_checkpoint", "secbatch.store.ledger:Ledger.checkpoint"),
    "publish": ("secbatch.publishing:Publisher.publish",),
}


class StageClock:
    """Processor time (all threads) of each stage, less that of stages inside it."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._running: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, stage: str, call: Callable[..., Any]) -> Any:
        self._switch()
        self._running.append(stage)
        try:
            return call()
        finally:
            self._switch()
            self._running.pop()

    def wrap(self, stage: str, function: Any) -> Any:
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(self.wrap(stage, function.__func__))

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = self.timed(stage, lambda: function(*args, **kwargs))
            return self._each(stage, result) if isinstance(result, Iterator) else result

        return wrapped

    def _each(self, stage: str, items: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while (item := self.timed(stage, lambda: next(items, end))) is not end:
            yield item

    def installed(self) -> ExitStack:
        stack = ExitStack()
        for stage, places in STAGES.items():
            for place in places:
                module, _, path = place.partition(":")
                *outer, name = path.split(".")
                owner = import_module(module)
                for attribute in outer:
                    owner = getattr(owner, attribute)
                stack.enter_context(patch.object(owner, name, self.wrap(stage, owner.__dict__[name])))
        return stack


class OneAfterAnother:
    """Stands in for the engine where each stage is to be measured alone."""

    stopping = False

    def __init__(
        self,
        encoded: Iterator[Any],
        compute: Callable[[Any], Any],
        finish: Callable[[Any], None],
        idle: Callable[[], None],
        end: Callable[[], None],
        give_up: Callable[[BaseException], None],
        waiting: int,
        landing: int | None,
    ) -> None:
        self._encoded, self._compute, self._finish, self._end = encoded, compute, finish, end

    def run(self) -> None:
        for item in self._encoded:
            self._finish(self._compute(item))
        self._end()


class AtOnce:
    """Stands in for a pool of threads: what it is given is done at once."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(call())
        return done

    def shutdown(self, **_: Any) -> None:
        pass


def job(source: Path, model: Path, output: Path, task: str = "fill-mask", partition_by: tuple[str, ...] = ()) -> Job:
    mask = FillMask(type="fill-mask", model=str(model), text="sentence", top_k=PREDICTIONS)
    vector = Embed(type="embed", model=str(model), text="sentence")
    specs: dict[str, dict[str, FillMask | Embed]] = {
        "fill-mask": {"mask": mask},
        "embed": {"vec": vector},
        "both": {"mask": mask, "vec": vector},
    }
    return Job(
        name="host-path",
        input=Input(path=str(source)),
        tasks=specs[task],
        output=Output(path=str(output), partition_by=partition_by),
        device="cpu",
        precision="float32",
    )


def run(
    source: Path,
    model: Path,
    like: str,
    device: NullDevice,
    reporter: Reporter | None = None,
    task: str = "fill-mask",
    partition_by: tuple[str, ...] = (),
) -> RunResult:
    """One whole run into a fresh output."""
    output = source.with_name("out")
    shutil.rmtree(output, ignore_errors=True)
    shards, token_budget = SETTINGS[like]
    with null_tasks(device, token_budget), patch("secbatch.runner.shard_rows_schedule", lambda *_: shards):
        result = run_job(job(source, model, output, task, partition_by), reporter=reporter)
    assert result.rejected == 0
    return result


def tokenizer_alone(model: Path, sentences: list[str]) -> tuple[float, float, int]:
    """(sentences a second, processor seconds a sentence, batch size) at its best batch size."""
    few = sentences[: max(PEER_BATCHES)]
    best = max(PEER_BATCHES, key=lambda size: _encode_all(model, few, size)[0])
    rate, cpu = _encode_all(model, sentences, best)
    return rate, cpu, best


def _encode_all(model: Path, sentences: list[str], size: int) -> tuple[float, float]:
    backend = tokenizer_of(model).hf.backend_tokenizer  # the model's own; a new one, as each run has
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(sentences), size):
        backend.encode_batch_fast(sentences[start : start + size])
    return len(sentences) / (time.perf_counter() - wall), (time.process_time() - cpu) / len(sentences)


def breakdown(source: Path, model: Path, like: str, rows: int, task: str) -> tuple[dict[str, float], float]:
    """(processor microseconds a row of each stage, run one after another; seconds of the set-up)"""
    clock = StageClock()
    begin = time.process_time()
    one_thread = ExitStack()
    one_thread.enter_context(patch("secbatch.shard_stages.LocalEngine", OneAfterAnother))
    one_thread.enter_context(patch("secbatch.shard_stages.read_ahead", lambda items, *_: items))
    one_thread.enter_context(patch("secbatch.engines.in_order.ThreadPoolExecutor", AtOnce))
    one_thread.enter_context(patch("secbatch.publishing.Publisher.parts_ahead", lambda publisher: None))
    with clock.installed(), one_thread:
        run(source, model, like, NullDevice(), task=task)
    whole = time.process_time() - begin
    rest = whole - sum(clock.seconds.values())
    once = clock.seconds.pop("set-up")
    found = {stage: seconds / rows * 1e6 for stage, seconds in clock.seconds.items()}
    return {**found, "all else": rest / rows * 1e6}, once


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sentences = distinct_sentences(options.sentences, options.rows)
    some = sentences[:: max(1, len(sentences) // STAGE_ROWS)]
    files = {name: folder / f"{name}.{options.format}" for name in ("all", "some", "few")}
    for file, texts in zip(files.values(), (sentences, some, sentences[:3000]), strict=True):
        write_export(file, texts, options.columns)
    model, like = model_folder(options.tokenizer, folder / "model"), options.like
    run(files["few"], model, like, NullDevice(), task=options.task)  # imports, and what is loaded once
    alone, path = (0.0, 0.0, 0), (0.0, 0.0)
    for _ in range(options.repeats):  # in turn, so that a change of the machine's mood meets both
        alone = max(alone, tokenizer_alone(model, sentences))
        cpu = time.process_time()
        result = run(files["all"], model, like, NullDevice(), task=options.task)
        path = max(path, (len(sentences) / result.seconds, (time.process_time() - cpu) / len(sentences)))
    stages, once = breakdown(files["some"], model, like, len(some), options.task)
    pretended = NullDevice(rows_per_second=options.device_share * path[0])
    run(files["all"], model, "steady", pretended, task=options.task)
    return {
        "rows": len(sentences),
        "format": options.format,
        "columns": options.columns,
        "tokens_per_sentence": result.tokens / len(sentences),
        "cores": os.cpu_count(),
        "like": like,
        "tokenizer_alone": {"rows_per_second": alone[0], "cpu_us_per_row": alone[1] * 1e6, "batch": alone[2]},
        "host_path": {"rows_per_second": path[0], "cpu_us_per_row": path[1] * 1e6},
        "ratio": path[0] / alone[0],
        "cpu_ratio": alone[1] / path[1],
        "cpu_us_per_row": stages,
        "set_up_seconds": once,
        "pretended_device": {"rows_per_second": pretended.rows_per_second, "busy_share": pretended.busy_share},
    }


def show(found: dict[str, Any]) -> None:
    alone, path, device = found["tokenizer_alone"], found["host_path"], found["pretended_device"]
    beside = f", {found['columns']} columns beside them" if found["columns"] else ""
    tokens = f"{found['rows']:,} sentences of {found['tokens_per_sentence']:.0f} tokens"
    print(f"{tokens} in {found['format']}{beside}, {found['cores']} cores")
    print(f"{'':28}{'sentences/s':>12}{'CPU µs/row':>12}")
    print(f"{'encode_batch_fast alone':28}{alone['rows_per_second']:>12,.0f}{alone['cpu_us_per_row']:>12.1f}")
    print(f"{'file to Parquet, null model':28}{path['rows_per_second']:>12,.0f}{path['cpu_us_per_row']:>12.1f}")
    print(f"{'ratio':28}{found['ratio']:>12.0%}{found['cpu_ratio']:>12.0%}")
    print(f"\nWhere the processor's time goes (one after another; set-up, once: {found['set_up_seconds']:.1f} s)")
    for stage, spent in found["cpu_us_per_row"].items():
        print(f"  {stage:26}{'':>12}{spent:>12.2f}")
    print(
        f"\nA pretended device of {device['rows_per_second']:,.0f} sentences/s had work {device['busy_share']:.1%} "
        "of the time from its first batch to its last"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer's files; the built-in one if left out")
    parser.add_argument("--sentences", type=Path, help="one sentence a line; the bundled reports if left out")
    parser.add_argument("--columns", type=int, default=0, help="so many more, as an export of alerts has them")
    parser.add_argument("--format", choices=FORMATS, default="csv", help="of the input")
    parser.add_argument("--task", choices=TASKS, default="fill-mask")
    parser.add_argument("--like", choices=sorted(SETTINGS), default="gpu", help="sizes as on that device")
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many counts")
    parser.add_argument("--device-share", type=float, default=0.8, help="speed of the pretended device")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
