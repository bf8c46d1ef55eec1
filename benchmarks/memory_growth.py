"""Whether memory and speed depend on how much there is to do: python benchmarks/memory_growth.py

Runs of 20,000, 200,000, 1,000,000 and 2,000,000 rows with a model that costs nothing, each in a process of its own:
its peak memory, its rows a second from the first finished shard to the last (so without imports and loading), and the
seconds of a second run, for which nothing is left to do. With --real the model is a RoBERTa of two layers of 64 with
random weights, and everything runs as in any job. With --night the figures are of a second run too, in a process of its
own: of the same rows in another order, with one more task, or of ten times as many of which the first run had a tenth.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # this and the next as the command line has them
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from host_path import SETTINGS, TASKS, job, run
from null_model import NullDevice, model_folder, null_tasks

from secbatch.runner import run_job

WORDS = ("malware", "host", "domain", "user", "server", "file", "mail", "script", "group", "key")
SIZES = (20_000, 200_000, 1_000_000, 2_000_000)
NIGHTS = ("shuffled", "task", "grown")


def write_rows(path: Path, rows: int, partitions: int = 1, different: float = 1.0) -> None:
    """Short sentences of one length, so that two million are done in minutes; partitions take turns.

    `different`: the share of sentences that are the first of their kind; then they come again from the beginning.
    """
    kinds = max(1, round(rows * different))
    with path.open("w", encoding="utf-8") as file:
        file.write("line,part,sentence\n")
        for number in range(rows):
            digits = f"{number % kinds:08}"  # as many words whatever the number: a row costs the same in any file
            words = " ".join(WORDS[int(digit)] for digit in digits)
            file.write(f"{number},p{number % partitions},The {words} is a <mask>.\n")


def shuffle_rows(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        head, *rows = file
    random.Random(0).shuffle(rows)
    path.write_text("".join([head, *rows]), encoding="utf-8")


class Marks:
    """When so many rows were done."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def progress(self, done: int, rejected: int, fraction: float) -> None:
        self.marks.append((time.perf_counter(), done))

    def notice(self, text: str) -> None:
        return

    @property
    def rows_per_second(self) -> float:
        """From the first finished shard to the last; nan where one held all rows."""
        (first_time, first_rows), (last_time, last_rows) = self.marks[0], self.marks[-1]
        elapsed = last_time - first_time
        return (last_rows - first_rows) / elapsed if elapsed else math.nan


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def small_model(tokenizer: Path | None, target: Path) -> None:
    """Saves a RoBERTa with random weights, small enough for millions of rows on a CPU."""
    import torch
    import transformers
    from encoder_model import model_tokenizer

    torch.manual_seed(0)
    words = model_tokenizer(tokenizer)
    config = transformers.RobertaConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        pad_token_id=words.pad_token_id,
    )
    transformers.RobertaForMaskedLM(config).save_pretrained(target)
    words.save_pretrained(target)


def one_run(
    folder: str, rows: int, like: str, task: str, partitions: int, different: float, real: bool
) -> dict[str, float]:
    source = Path(folder) / "rows.csv"
    write_rows(source, rows, partitions, different)
    partition_by = ("part",) if partitions > 1 else ()
    marks = Marks()
    model, output = Path(folder) / "model", source.with_name("out")
    asked = job(source, model, output, task, partition_by)
    if real:
        shutil.rmtree(output, ignore_errors=True)
        result = run_job(asked, reporter=marks)
    else:
        result = run(source, model, like, NullDevice(), reporter=marks, task=task, partition_by=partition_by)
    assert result.enriched == rows
    peak, rate = peak_mib(), marks.rows_per_second
    nothing: AbstractContextManager[None] = nullcontext() if real else null_tasks(NullDevice(), SETTINGS[like][1])
    with nothing:
        again = run_job(asked)
    assert (again.enriched, again.reused) == (0, rows)
    figures = {"rows": rows, "peak_mib": peak, "rows_per_second": rate, "seconds": result.seconds}
    # Of a short run the rate above is too high: shards are computed while the first one is on its way to the disk.
    return {**figures, "device_us": result.timings["device"] / rows * 1e6, "again_seconds": again.seconds}


def one_night(folder: str, rows: int, like: str, night: str) -> dict[str, float]:
    """After `one_run` of fill-mask."""
    source, marks = Path(folder) / "rows.csv", Marks()
    shards, token_budget = SETTINGS[like]
    asked = job(source, Path(folder) / "model", source.with_name("out"), "both" if night == "task" else "fill-mask")
    with null_tasks(NullDevice(), token_budget), patch("secbatch.runner.shard_rows_schedule", lambda *_: shards):
        result = run_job(asked, reporter=marks)
    assert result.enriched + result.reused == result.rows_in_dataset == rows
    figures = {"rows": rows, "peak_mib": peak_mib(), "rows_per_second": marks.rows_per_second}
    return {**figures, "seconds": result.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="ROWS")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer's files; the built-in one if left out")
    parser.add_argument("--task", choices=TASKS, default="fill-mask", help="what is done with each row")
    parser.add_argument("--partitions", type=int, default=1, help="of the output, with as many rows in each")
    parser.add_argument("--different", type=float, default=1.0, help="share of sentences that no earlier one is like")
    parser.add_argument("--like", choices=sorted(SETTINGS), default="gpu", help="sizes as on that device")
    parser.add_argument("--real", action="store_true", help="a small model with weights; sizes as on this machine")
    parser.add_argument("--night", choices=NIGHTS, help="measure a second run; what is other in it")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    if options.night and (options.real or options.partitions > 1 or options.task != "fill-mask"):
        parser.error("--night goes with --sizes, --like, --different and --tokenizer alone")
    found = []
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        (small_model if options.real else model_folder)(options.tokenizer, Path(folder) / "model")
        print(f"{'rows':>10}{'peak memory':>14}{'rows/s':>10}{'device µs/row':>15}{'whole run':>12}{'again':>10}")
        for rows in options.sizes:
            # A pool of one, anew for each size: what fails or dies there ends this process with its failure.
            with ProcessPoolExecutor(1, mp_context=processes) as child:
                settings = options.like, options.task, options.partitions, options.different, options.real
                first_rows = rows // 10 if options.night == "grown" else rows
                last = child.submit(one_run, folder, first_rows, *settings).result()
            if options.night:
                source = Path(folder) / "rows.csv"
                with ProcessPoolExecutor(1, mp_context=processes) as child:  # one starts with this one's peak
                    if options.night == "shuffled":
                        child.submit(shuffle_rows, source).result()
                    elif options.night == "grown":
                        child.submit(write_rows, source, rows, 1, options.different).result()
                with ProcessPoolExecutor(1, mp_context=processes) as child:
                    night = child.submit(one_night, folder, rows, options.like, options.night).result()
                last |= {f"night_{name}": figure for name, figure in night.items()}
            found.append(last)
            memory, rate, seconds = last["peak_mib"], last["rows_per_second"], last["seconds"]
            print(
                f"{first_rows:>10,}{memory:>10,.0f} MiB{rate:>10,.0f}{last['device_us']:>15.1f}{seconds:>10.1f} s"
                f"{last['again_seconds']:>8.1f} s",
                flush=True,
            )
            if options.night:
                memory, rate, seconds = night["peak_mib"], night["rows_per_second"], night["seconds"]
                print(f"{options.night:>10}{memory:>10,.0f} MiB{rate:>10,.0f}{seconds:>25.1f} s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
