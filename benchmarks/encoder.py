"""Fill-mask and embeddings against peers: python benchmarks/encoder.py [--quick] [--task T] [--tokenizer DIR] …

A model of RoBERTa-base's shape with random weights; real sentences with one mask each. secbatch runs whole jobs, from
CSV to Parquet; peers start from sentences in memory: the fill-mask pipeline of transformers, sentence-transformers'
`encode`, and OpenVINO (with the head at the masks only). Each peer's best setting is looked for first, then all are
measured in turn, several rounds, with the rate of plain matrix products between them. Every figure is printed, written
as JSON, and drawn.
"""

import argparse
import json
import platform
import tempfile
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import transformers
from encoder_model import fill_mask_flops, head_flops, model_flops, model_tokenizer, roberta_base
from encoder_ours import EndToEnd, ModelAlone, end_to_end, largest_difference
from encoder_peers import Way, missing, peers
from encoder_report import draw, show
from gemm import GemmRate
from gpu_watch import GpuWatch
from sentences import distinct_sentences, write_csv

from secbatch.job import Job
from secbatch.models.device import choose
from secbatch.models.resolve import resolve
from secbatch.models.tokenizer_files import load_tokenizer

RESULTS = Path(__file__).parent / "results"
TASKS = ("fill-mask", "embed")
PRECISIONS = [one for one in get_args(Job.model_fields["precision"].annotation) if one != "auto"]
LONGEST = 512  # tokens of a text, with those at its ends: what the model holds


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int  # sentences of a job
    peer: int  # sentences that a peer gets in a round
    search: int  # and in the search for its best setting
    rounds: int


CPU, CPU_QUICK = Sizes(640, 128, 64, 3), Sizes(128, 64, 32, 2)
CUDA, CUDA_QUICK = Sizes(1_000_000, 2048, 1024, 3), Sizes(200_000, 1024, 512, 2)


@dataclass
class Line:
    """A row of the table. Rates: sentences a second in each round, for sentences of average length."""

    task: str
    who: str
    setting: str
    precision: str
    n: int
    padding: float  # share of the tokens that were computed
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return float(np.median(self.rates))


class Bench:
    def __init__(self, options: argparse.Namespace, sizes: Sizes, folder: Path) -> None:
        self.options, self.sizes, self.folder = options, sizes, folder
        self.device = choose(options.device).device
        self.sentences = distinct_sentences(options.sentences, options.rows or sizes.rows)
        self.source, self.model = folder / "sentences.csv", folder / "model"
        write_csv(self.source, self.sentences)
        self.tokenizer = model_tokenizer(options.tokenizer)
        self.vocabulary = roberta_base(self.tokenizer, self.model)
        self.lengths = load_tokenizer(resolve(str(self.model))).encode(self.sentences).lengths
        if long := int((self.lengths > LONGEST).sum()):
            raise SystemExit(
                f"{options.sentences}: {long} texts have more than {LONGEST} tokens; peers cannot take them."
            )

    def drawn(self, way: Way, count: int) -> np.ndarray:
        """Sentences for a peer: whole batches of all sentences, in its order, at even distances.

        So they are as long, and a sorted batch as even, as if it had got them all.
        """
        order = np.argsort(self.lengths, kind="stable") if way.sort else np.arange(len(self.lengths))
        batches = [order[start : start + way.batch] for start in range(0, len(order), way.batch)]
        wanted = min(max(count // way.batch, way.least), len(batches))
        return np.concatenate([batches[int((k + 0.5) * len(batches) / wanted)] for k in range(wanted)])

    def peer_line(self, task: str, way: Way, count: int) -> Line:
        rows = self.drawn(way, count)
        parts = [self.lengths[rows[start : start + way.batch]] for start in range(0, len(rows), way.batch)]
        computed = sum(int(part.max()) * len(part) for part in parts)
        padding = 1 - self.lengths[rows].sum() / computed
        return Line(task, way.who, way.setting, way.precision, len(rows), float(padding))

    def peer_rate(self, way: Way, count: int) -> float:
        rows = self.drawn(way, count)
        texts = [self.sentences[row] for row in rows]
        begin = time.perf_counter()
        way.work(texts)
        seconds = time.perf_counter() - begin
        return float(self.lengths[rows].sum() / self.lengths.mean() / seconds)

    def best_setting(self, ways: list[Way]) -> tuple[Way, dict[str, float]]:
        found: dict[str, float] = {}
        for way in ways:
            way.work(self.sentences[:2])
            if way.compiles:
                self.peer_rate(way, self.sizes.search)
            found[way.setting] = self.peer_rate(way, self.sizes.search)
            print(f"  {way.who}, {way.precision}, {way.setting}: {found[way.setting]:,.1f} sentences/s", flush=True)
        return max(ways, key=lambda way: found[way.setting]), found

    def measure(self, task: str, precision: str) -> dict[str, Any]:
        """Figures of one task in one precision: the lines, and the share of the matrix rate."""
        print(f"{task}, {precision}: looking for the best setting of each peer", flush=True)
        found: dict[str, Any] = {"task": task, "precision": precision, "searched": {}}
        best: list[Way] = []
        for kind in self.options.peers or [precision]:
            for ways in peers(task, self.model, self.tokenizer, self.device, kind, self.options.quick):
                way, searched = self.best_setting(ways)
                best.append(way)
                found["searched"][f"{way.who}, {kind}"] = searched
        n = len(self.sentences)
        whole = Line(task, "secbatch", "CSV to Parquet", precision, n, 0.0)
        alone = Line(task, "secbatch", "model alone", precision, n, 0.0)
        lines = [self.peer_line(task, way, self.sizes.peer) for way in best]
        model = ModelAlone(task, self.model, self.sentences, self.device, precision)
        model.seconds()
        gemm = GemmRate(self.device, torch.float32 if precision == "float32" else torch.bfloat16)
        runs: list[EndToEnd] = []
        shares: list[float] = []
        busy: list[float] = []
        for _ in range(self.sizes.rounds):
            before = gemm.measure()
            alone.rates.append(n / model.seconds())
            with GpuWatch(self.device) if self.device.startswith("cuda") else nullcontext() as watch:
                runs.append(end_to_end(task, self.model, self.source, self.folder / "out", self.device, precision))
            if watch:
                busy.append(watch.busy_share)
            rate = (before + gemm.measure()) / 2
            shares.append(self._flops(task, runs[-1]) / runs[-1].device / rate)
            whole.rates.append(n / runs[-1].steady)
            for way, line in zip(best, lines, strict=True):
                line.rates.append(self.peer_rate(way, self.sizes.peer))
        whole.padding = alone.padding = runs[0].padding / max(runs[0].padding + runs[0].tokens, 1)
        device = float(np.median([run.device for run in runs]))
        flops, nominal = self._flops(task, runs[0]), model_flops(runs[0].tokens)
        if task == "fill-mask":
            nominal += head_flops(n, self.vocabulary)
        return found | {
            "lines": [asdict(line) | {"rate": line.rate} for line in (whole, alone, *lines)],
            "starting_seconds": float(np.median([run.starting for run in runs])),
            "tokens": runs[0].tokens,
            "gemm_median": gemm.median,
            "gemm_best": gemm.best,
            "share_of_each_round": shares,
            "share": float(np.median(shares)),
            "share_of_best": flops / min(run.device for run in runs) / gemm.best,
            "share_counting_skipped_work": nominal / device / gemm.median,
            "end_to_end_of_alone": whole.rate / alone.rate,
            "device_busy": float(np.median(busy)) if busy else None,
            "stages": runs[-1].stages,
        }

    def _flops(self, task: str, run: EndToEnd) -> float:
        if task == "embed":
            return model_flops(run.tokens)
        return fill_mask_flops(run.tokens, run.rows, self.vocabulary)

    def strict(self, task: str) -> dict[str, Any]:
        """How far float32 on the GPU is from float32 on the CPU."""
        some = self.sentences[:256]
        sides = [ModelAlone(task, self.model, some, device, "float32") for device in (self.device, "cpu")]
        largest, differ = largest_difference(*sides)
        return {"task": task, "n": len(some), "largest_difference": largest, "words_that_differ": differ}


def about(bench: Bench) -> dict[str, Any]:
    packages = ("torch", "transformers", "sentence-transformers", "openvino")
    versions = {name: metadata.version(name) for name in packages if name.replace("-", "_") not in missing()}
    return {
        "device": choose(bench.options.device).description,
        "machine": _processor(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "quick": bench.options.quick,
        "sentences": len(bench.sentences),
        "tokens_per_sentence": float(bench.lengths.mean()),
        "rounds": bench.sizes.rounds,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sentences, two rounds: about a minute on 2 cores")
    parser.add_argument("--task", choices=TASKS, action="append", help="repeatable; both if left out")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        action="append",
        help="repeatable; float32, and what `precision: auto` is here, if left out",
    )
    parser.add_argument(
        "--peers", choices=PRECISIONS, action="append", help="precision of peers, repeatable; secbatch's if left out"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, help="sentences of a job")
    parser.add_argument("--rounds", type=int, help="more of them where the machine is fast and slow by turns")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer's files; the built-in one if left out")
    parser.add_argument("--sentences", type=Path, help="one sentence a line; the bundled reports if left out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for encoder.json and encoder.svg")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    compute = choose(options.device)
    cuda = compute.device.startswith("cuda")
    sizes = ((CPU, CPU_QUICK), (CUDA, CUDA_QUICK))[cuda][options.quick]
    sizes = replace(sizes, rounds=options.rounds or sizes.rounds)
    precisions = options.precision or list(dict.fromkeys(["float32", compute.dtype]))
    tasks = options.task or TASKS
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, sizes, Path(folder))
        found: dict[str, Any] = about(bench)
        found["measured"] = [bench.measure(task, kind) for task in tasks for kind in precisions]
        if cuda:
            found["float32_on_gpu_and_cpu"] = [bench.strict(task) for task in tasks]
    if missing():
        print(f"Not installed, so not measured: {', '.join(missing())} (pip install 'secbatch[bench]').")
    show(found)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "encoder.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, options.results / "encoder.svg")


if __name__ == "__main__":
    main()
