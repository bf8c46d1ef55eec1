"""Fine-tuning against transformers' Trainer: python benchmarks/training.py [--data FILE --text T --label L] [--quick] …

One model, one set of labelled texts, the same dropout, optimizer, clipping and number of texts. The Trainer is as its
documentation shows it: batches of a fixed number of texts in random order, padded to the longest of each. It runs
twice: with its own default of 8 texts a batch, and with as many as make our tokens a step on average. Only real tokens
count. Ways run in turn, several rounds; the medians are compared. Needs accelerate (extra `bench`).
"""

import argparse
import json
import statistics
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentences import distinct_sentences

from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning.batches import plan_training
from secbatch.finetuning.build import Built, build
from secbatch.finetuning.checkpoint import Checkpoints
from secbatch.finetuning.dataset import Dataset, load_dataset
from secbatch.finetuning.loop import Training
from secbatch.finetuning.network import build_network
from secbatch.finetuning.objective import Evaluation
from secbatch.finetuning.optimizer import build_optimizer, learning_rate
from secbatch.jobfile import validate_as
from secbatch.models.device import Compute, choose
from secbatch.models.resolve import resolve

RESULTS = Path(__file__).parent / "results"
CLASSES = 10  # of the bundled sentences, by a hash: speed does not depend on what is learned
DEFAULT_BATCH = 8  # the Trainer's own


@dataclass(frozen=True)
class Pass:
    """One pass over some texts."""

    way: str
    tokens: int  # real ones
    seconds: float
    cpu_seconds: float  # of the process: a busy machine does not touch it

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class _Nobody:
    def notice(self, text: str) -> None:
        return

    def progress(self, progress: Any) -> None:
        return

    def evaluated(self, entry: dict[str, Any], better: bool, metric: str) -> None:
        return


def ours(job: FinetuneJob, data: Dataset, compute: Compute, rows: int, seed: int) -> Pass:
    """The loop of `secbatch finetune`, over the first `rows` texts."""
    built = _built(job, data, compute)
    wanted = job.settled()
    items = built.items["train"][:rows]
    named = dict(built.model.named_parameters())
    optimizer = build_optimizer(built.model, named, wanted, built.new_head, learning_rate(wanted, built.model))
    assert wanted.batch_tokens is not None
    plan = plan_training(np.array([item.length for item in items]), wanted.batch_tokens, 1, seed)
    sample = built.objective.batch(items[:4], None)
    network = build_network(built.model, compute.device, built.tokenizer.pad_id, sample, True)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            job, network, built.objective, optimizer, named, plan, items,
            lambda: Evaluation({"loss": 0.0, job.metric: 0.0}), compute, Checkpoints(Path(folder)), "",
        )  # fmt: skip
        begin, cpu = time.perf_counter(), time.process_time()
        training.run(_Nobody(), lambda: False)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    return Pass("secbatch", training.state.tokens, seconds, cpu_seconds)


def trainer(job: FinetuneJob, data: Dataset, compute: Compute, rows: int, seed: int, batch: int) -> Pass:
    """A plain Trainer over the same texts, `batch` of them at a time."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    built = _built(job, data, compute)
    wanted = job.settled()
    items = built.items["train"][:rows]
    texts = [{"input_ids": item.ids.tolist(), "labels": int(item.targets[0])} for item in items]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            learning_rate=learning_rate(wanted, built.model),
            weight_decay=wanted.weight_decay,
            warmup_steps=1,
            max_grad_norm=wanted.max_gradient,
            label_smoothing_factor=wanted.label_smoothing or 0.0,
            bf16=compute.dtype == "bfloat16",
            use_cpu=compute.device == "cpu",
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        collator = DataCollatorWithPadding(built.tokenizer.hf)
        run = Trainer(model=built.model, args=arguments, train_dataset=texts, data_collator=collator)
        run.remove_callback(PrinterCallback)
        begin, cpu = time.perf_counter(), time.process_time()
        run.train()
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    return Pass(f"Trainer, {batch} texts", sum(len(item.ids) for item in items), seconds, cpu_seconds)


def _built(job: FinetuneJob, data: Dataset, compute: Compute) -> Built:
    return build(job, data, resolve(job.model.base, job.model.revision), compute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="labelled CSV, Parquet or JSONL; the bundled sentences without it")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--model", default="builtin/mlm")
    parser.add_argument("--rows", type=int, default=1200, help="texts of a pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; all cores without it")
    parser.add_argument("--quick", action="store_true", help="one round over 300 texts")
    asked = parser.parse_args()
    rows, rounds = (300, 1) if asked.quick else (asked.rows, asked.rounds)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = asked.data or _bundled(Path(folder) / "sentences.csv", rows)
        job = _job(asked.model, path, asked.text, asked.label)
        data = load_dataset(job)
        compute = choose(job.device, job.precision)
        if compute.device == "cpu":
            torch.set_flush_denormal(True)
        lengths = [len(item.ids) for item in _built(job, data, compute).items["train"][:rows]]
        tokens = job.settled().batch_tokens or 1
        equal = max(1, round(tokens / statistics.mean(lengths)))
        print(f"{len(lengths)} texts of {statistics.mean(lengths):.1f} tokens on average, at most {max(lengths)}")
        passes = []
        for number in range(rounds):
            passes.append(ours(job, data, compute, rows, number))
            passes += [trainer(job, data, compute, rows, number, size) for size in (DEFAULT_BATCH, equal)]
            for one in passes[-3:]:
                print(f"round {number + 1}: {one.way:<20} {one.rate:8,.0f} tokens/s, {one.seconds:6.1f} s", flush=True)
    figures = _summary(passes, compute)
    RESULTS.mkdir(exist_ok=True)
    about = {"texts": len(lengths), "mean_tokens": statistics.mean(lengths), "batch_tokens": tokens}
    (RESULTS / "training.json").write_text(
        json.dumps({**about, **figures, "passes": [asdict(one) for one in passes]}, indent=2) + "\n"
    )


def _summary(passes: list[Pass], compute: Compute) -> dict[str, Any]:
    ways = list(dict.fromkeys(one.way for one in passes))
    rates = {way: statistics.median(one.rate for one in passes if one.way == way) for way in ways}
    cpu = {way: statistics.median(one.tokens / one.cpu_seconds for one in passes if one.way == way) for way in ways}
    print(f"\n{compute.description}, {compute.dtype}; medians")
    for way in ways:
        print(
            f"{way:<20} {rates[way]:8,.0f} tokens/s   {cpu[way]:8,.0f} tokens per CPU second   secbatch is"
            f" {rates[ways[0]] / rates[way]:.2f} times as fast ({cpu[ways[0]] / cpu[way]:.2f} by CPU time)"
        )
    return {"device": compute.description, "tokens_per_second": rates, "tokens_per_cpu_second": cpu}


def _job(model: str, path: Path, text: str, label: str) -> FinetuneJob:
    values = {
        "name": "training-benchmark",
        "objective": "classify",
        "model": model,
        "data": {"train": str(path), "text": text, "label": label, "min_examples": 1, "dev_fraction": 0.05},
        "hyperparameters": {"epochs": 1},
        "output": "unused",
    }
    return validate_as(FinetuneJob, values, "the benchmark's job")


def _bundled(path: Path, rows: int) -> Path:
    lines = ["text\tlabel"]
    for sentence in distinct_sentences(None, rows * 2):
        flat = " ".join(sentence.replace('"', "'").split())
        lines.append(f"{flat}\tclass {zlib.crc32(flat.encode()) % CLASSES}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
