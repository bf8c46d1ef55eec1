"""When a GPU has nothing to do during a job: python benchmarks/gpu_gaps.py [--task T] [--rows N] [--tokenizer DIR]

A job goes from CSV to Parquet (a model of RoBERTa-base's shape with random weights, real sentences, bfloat16) while
torch's profiler notes each kernel and copy on the GPU; half a second at each end is left out. Prints the share of time
with work and what it was, the gaps by their length, what the largest ones waited for, and what the thread that feeds
the GPU did: in all the time, and in the gaps. nvidia-smi's figure, a mean of up to a second, is in
benchmarks/encoder.py.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from encoder_model import model_tokenizer, roberta_base
from encoder_ours import end_to_end
from host_watch import HostWatch
from sentences import distinct_sentences, write_csv
from torch.profiler import ProfilerActivity, profile

Work = tuple[int, int, str]  # nanoseconds of its begin and end, and what it is

END = 500_000_000  # nanoseconds at each end
LENGTHS = (0, 5, 20, 100, 1000)  # microseconds; gaps are counted between these
SHOWN = 6  # of the largest gaps
KINDS = 10  # of kernels, by their time
LONG = 100_000  # nanoseconds: a gap that the thread beside it is looked at for


def gaps(works: Iterable[Work], low: int, high: int) -> Iterator[Work]:
    """Times between `low` and `high` in which nothing ran, and what ran next. `works`: by their begin; may overlap."""
    end = low
    for begin, done, what in works:
        if begin > end:
            yield end, min(begin, high), what
        end = max(end, done)
        if end >= high:
            return
    if end < high:
        yield end, high, "the end"


def traced(task: str, folder: Path) -> tuple[list[Work], HostWatch]:
    """What the GPU did during one job, by its begin, and the thread that feeds it."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace, HostWatch() as host:
        end_to_end(task, folder / "model", folder / "sentences.csv", folder / "out", "cuda", "bfloat16")
    events = trace.profiler.kineto_results.events()
    on_gpu = [event for event in events if "CUDA" in str(event.device_type()) and event.duration_ns() > 0]
    works = sorted((event.start_ns(), event.start_ns() + event.duration_ns(), event.name()) for event in on_gpu)
    return works, host


def show(task: str, works: list[Work], host: HostWatch) -> None:
    low, high = works[0][0] + END, works[-1][1] - END
    if high <= low:
        raise SystemExit("The job was over in a second; give it more --rows.")
    found = list(gaps(works, low, high))
    spent = np.array([end - begin for begin, end, _ in found] or [0])
    print(f"{task}: {len(works):,} kernels and copies in {(works[-1][1] - works[0][0]) / 1e9:.2f} s")
    print(f"  the GPU had work {1 - spent.sum() / (high - low):.1%} of the time")
    by_kind: Counter[str] = Counter()
    for begin, done, what in works:
        by_kind[what] += done - begin
    for what, nanoseconds in by_kind.most_common(KINDS):
        print(f"  {nanoseconds / by_kind.total():.1%} of its work: {what[:90]}")
    for least, most in zip(LENGTHS, (*LENGTHS[1:], np.inf), strict=True):
        chosen = spent[(spent >= least * 1000) & (spent < most * 1000)]
        print(f"  gaps from {least} to {most:.0f} µs: {len(chosen):,}, {chosen.sum() / 1e6:.0f} ms")
    for begin, end, what in sorted(found, key=lambda gap: gap[0] - gap[1])[:SHOWN]:
        print(f"  {(end - begin) / 1e6:.1f} ms at {(begin - works[0][0]) / 1e9:.2f} s before {what[:60]}")
    long = [(begin, end) for begin, end, _ in found if end - begin >= LONG]
    whole, idle = host.between(low, high), sum((host.between(*gap) for gap in long), Counter())
    for what, nanoseconds in whole.most_common():
        print(f"  its thread {what}: {nanoseconds / 1e6:,.0f} ms, in long gaps {idle[what] / 1e6:,.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("fill-mask", "embed"), action="append", help="repeatable; both if left out")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer's files; the built-in one if left out")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU here.")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "sentences.csv", distinct_sentences(None, options.rows))
        roberta_base(model_tokenizer(options.tokenizer), folder / "model")
        tasks = options.task or ("fill-mask", "embed")
        traced(tasks[0], folder)  # kernels that are compiled, and what is loaded once
        for task in tasks:
            show(task, *traced(task, folder))


if __name__ == "__main__":
    main()
