"""Answers a second against transformers: python benchmarks/chat.py [--quick] [--device D] [--threads N].

Peers and secbatch generate for the same questions with the same random weights, in one process, one after the other:
`generate` one question at a time in float32, and `generate` on sorted, padded batches at the best of several
batch sizes. Shapes: Blenderbot-400M with its own ten beams and greedy, a small Llama with short and with long prompts
and with paragraphs and pages that get longer answers, and Flan-T5-small over long texts. Random weights would never end
an answer; the end token's weights are widened so that answers end at many lengths. In float32 the tokens are compared,
too. On a GPU `generate` looks for repeated n-grams sequence by sequence, from Python; a case without those rules shows
what is gained besides. There its batches are measured on some of the questions, each size after a trial.
"""

import argparse
import json
import platform
import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from chat_models import END, GREEDY_END_MEAN, blenderbot, blenderbot_without_ngram_rules, flan_t5_small, llama
from rich.console import Console
from rich.table import Table

from secbatch.models import generation_blenderbot
from secbatch.models.device import choose
from secbatch.models.generation import Generator, Prompt
from secbatch.models.generation_batch import cut_at_end
from secbatch.models.generation_settings import position_limit, settings_for
from secbatch.task_specs import Generation

QUESTIONS, LONG_TEXTS, PAGES = (20, 6, 6, 40), (300, 90, 100, 500), (800, 100, 600, 1000)
QUICK_TOKENS = 24  # the longest answers of a quick run
RESULTS = Path(__file__).parent / "results" / "chat.json"


@dataclass(frozen=True)
class Case:
    """One model, one way to search, and what the peers try. Numbers: full run, quick run."""

    name: str
    build: Callable[[], Any]
    job: dict[str, Any]
    questions: tuple[int, int]
    alone: tuple[int, int]  # questions that are asked one at a time
    batches: tuple[tuple[int, ...], tuple[int, ...]]  # rows in a batch that peers try
    # Questions that peers' batches are measured on (more for a larger batch).
    peers: tuple[int, int] = (1 << 20, 1 << 20)
    lengths: tuple[int, int, int, int] = QUESTIONS  # of questions in tokens: mean, deviation, least, most


greedy_blenderbot = partial(blenderbot, GREEDY_END_MEAN)
CPU_CASES = (
    Case("Blenderbot-400M, 10 beams", blenderbot, {}, (32, 4), (3, 1), ((8, 16, 32), (4,))),
    Case(
        "Blenderbot-400M, greedy", greedy_blenderbot, {"num_beams": 1}, (192, 32), (4, 2), ((16, 64), (16,)), (128, 32)
    ),
    Case("small Llama, greedy", llama, {"max_new_tokens": 32}, (64, 16), (4, 2), ((16, 64), (16,))),
    *(
        Case(name, build, {"max_new_tokens": 32}, (64, 16), (4, 2), ((8, 16, 32, 64), (8,)), lengths=LONG_TEXTS)
        for name, build in (("small Llama, long prompts", llama), ("Flan-T5-small, long texts", flan_t5_small))
    ),
    *(
        Case(name, llama, {"max_new_tokens": limit}, (count, 8), (2, 1), ((4, 8, 16, 32), (8,)), lengths=lengths)
        for name, limit, count, lengths in (
            ("small Llama, a paragraph and 64 tokens", 64, 32, LONG_TEXTS),
            ("small Llama, a paragraph and 200 tokens", 200, 32, LONG_TEXTS),
            ("small Llama, a page and 64 tokens", 64, 16, PAGES),
        )
    ),
)
CUDA_CASES = (
    Case("Blenderbot-400M, 10 beams", blenderbot, {}, (512, 256), (4, 1), ((64, 128, 256), (32,)), (128, 32)),
    Case(
        "Blenderbot-400M, 10 beams, no n-gram rules",
        blenderbot_without_ngram_rules,
        {},
        (512, 256),
        (4, 1),
        ((128, 256, 512), (128,)),
        (512, 128),
    ),
    Case(
        "Blenderbot-400M, greedy",
        greedy_blenderbot,
        {"num_beams": 1},
        (2048, 1024),
        (4, 1),
        ((256, 512, 1024), (256,)),
        (1024, 256),
    ),
    Case("small Llama, greedy", llama, {"max_new_tokens": 32}, (4096, 1024), (4, 1), ((256, 1024, 4096), (512,))),
)


@dataclass(frozen=True)
class Settled:
    """A case with one size, as the command line has it."""

    name: str
    build: Callable[[], Any]
    job: dict[str, Any]
    questions: int
    alone: int
    batches: Sequence[int]
    peers: int
    lengths: tuple[int, int, int, int]


def settled(case: Case, options: argparse.Namespace) -> Settled:
    size = int(options.quick)
    job = case.job | {"max_new_tokens": QUICK_TOKENS} if options.quick else case.job
    count = options.questions or case.questions[size]
    batches = options.batches or case.batches[size]
    return Settled(case.name, case.build, job, count, case.alone[size], batches, case.peers[size], case.lengths)


def questions(count: int, vocabulary: int, end: bool, sizes: tuple[int, int, int, int] = QUESTIONS) -> list[list[int]]:
    drawn, (mean, deviation, least, most) = random.Random(1), sizes
    lengths = [min(most, max(least, round(drawn.gauss(mean, deviation)))) for _ in range(count)]
    return [[drawn.randrange(5, vocabulary) for _ in range(length)] + [END] * end for length in lengths]


def generate(model: Any, prompts: Sequence[list[int]], batch: int, job: dict[str, Any]) -> list[list[int]]:
    """transformers' way at its best: like lengths together, encoders padded on the right, decoders on the left."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    answers: list[list[int]] = [[] for _ in prompts]
    encoder_decoder = model.config.is_encoder_decoder
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        width = max(len(prompts[place]) for place in places)
        gaps = [[0] * (width - len(prompts[place])) for place in places]
        rows = [
            (prompts[place] + gap) if encoder_decoder else (gap + prompts[place])
            for place, gap in zip(places, gaps, strict=True)
        ]
        ids = torch.tensor(rows, device=model.device)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=(ids != 0).long(), **job)
        for place, row in zip(places, out[:, 1 if encoder_decoder else width :].tolist(), strict=True):
            answers[place] = cut_at_end(row, (END,))
    return answers


def timed(work: Callable[[], list[list[int]]], clock: Callable[[], float]) -> tuple[float, list[list[int]]]:
    begin = clock()
    made = work()  # lists: a GPU has come to rest
    return clock() - begin, made


def measure(
    case: Settled, device: str, dtype: str, clock: Callable[[], float], console: Console
) -> list[dict[str, Any]]:
    """A line for each way, in answers a second."""
    cuda = device.startswith("cuda")
    with torch.device(device):  # weights are drawn there
        model = case.build().to(device)
    prompts = questions(case.questions, model.config.vocab_size, bool(model.config.is_encoder_decoder), case.lengths)
    lines: list[dict[str, Any]] = []
    kept: dict[str, list[list[int]]] = {}

    def add(way: str, precision: str, count: int, work: Callable[[], list[list[int]]]) -> None:
        seconds, made = timed(work, clock)
        kept[f"{way} {precision}"] = made
        tokens = sum(map(len, made))
        line = {"case": case.name, "way": way, "precision": precision, "questions": count, "seconds": seconds}
        lines.append(line | {"answers_per_second": count / seconds, "tokens_per_second": tokens / seconds})
        console.print(f"  {way}, {precision}: {count / seconds:.2f} answers/s, {tokens} tokens in {seconds:.2f} s")

    short = {**case.job, "max_new_tokens": 4, "min_length": 0}
    generate(model, prompts[:1], 1, short)  # warm
    few = prompts[: case.alone]
    add("generate, one at a time", "float32", len(few), partial(generate, model, few, 1, case.job))
    for precision in ("float32", "bfloat16") if dtype == "bfloat16" else ("float32",):
        if precision == "bfloat16":
            model = model.to(torch.bfloat16)
        # where float32 is there for its tokens, one size tells enough of its rate
        for batch in case.batches if precision == dtype else case.batches[len(case.batches) // 2 :][:1]:
            asked = prompts[: max(batch, case.peers)]
            if cuda:
                generate(model, asked[:batch], batch, short)
            peer = partial(generate, model, asked, batch, case.job)
            add(f"generate, batches of {batch}", precision, len(asked), peer)
        settings = settings_for(
            model.generation_config,
            Generation(**case.job),
            position_limit(model.config),
            bool(model.config.is_encoder_decoder),
            case.name,
        )
        made = Generator(model, settings)
        made.generate([Prompt(prompt) for prompt in (prompts if cuda else prompts[:1])])  # warm
        add("secbatch", precision, len(prompts), partial(answers_of, made, prompts))
        several = len(prompts) * settings.num_beams >= 2 * generation_blenderbot.SEQUENCES_OF_A_PART
        if made.refills and several and not cuda:  # what it brings that they go side by side
            with patch.object(generation_blenderbot, "SEQUENCES_OF_A_PART", sys.maxsize):
                add("secbatch, all cores at all sequences", precision, len(prompts), partial(answers_of, made, prompts))
        if made.refills and not cuda and max(case.batches) < len(prompts):  # the peer's batch, where ours was larger
            most = max(case.batches)
            longest = max(len(prompt) + settings.new_token_limit(1) for prompt in prompts)
            few_places = Generator(model, settings, most * settings.num_beams * longest)
            add(f"secbatch, {most} at a time", precision, len(prompts), partial(answers_of, few_places, prompts))
    alone, ours = kept["generate, one at a time float32"], kept["secbatch float32"]
    same = sum(a == b for a, b in zip(alone, ours, strict=False))
    lengths = sorted(map(len, ours))
    console.print(
        f"  same tokens as one at a time in float32: {same} of {len(alone)}; answers of {lengths[0]} to {lengths[-1]}"
        f" tokens, {lengths[len(lengths) // 2]} in the middle"
    )
    return [line | {"same": [same, len(alone)]} if line["way"] == "secbatch" else line for line in lines]


def answers_of(generator: Generator, prompts: Sequence[list[int]]) -> list[list[int]]:
    return [answer.tokens for answer in generator.generate([Prompt(prompt) for prompt in prompts]).answers]


def table(lines: Sequence[dict[str, Any]]) -> Table:
    shown = Table("case", "way", "precision", "answers/s", "secbatch is", title="Chat", title_justify="left")
    for line in lines:
        rate = line["answers_per_second"]
        of_case = [one for one in lines if one["case"] == line["case"] and one["way"] == "secbatch"]
        same = [one for one in of_case if one["precision"] == line["precision"]]
        best = max(of_case, key=lambda one: one["answers_per_second"])
        text = "" if line["way"].startswith("secbatch") else f"{same[0]['answers_per_second'] / rate:.2f} × it"
        if text and best is not same[0]:
            text += f" ({best['answers_per_second'] / rate:.1f} × in {best['precision']})"
        shown.add_row(line["case"], line["way"], line["precision"], f"{rate:.2f}", text)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few questions: under a minute")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="beside float32; what `auto` is if left out"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--questions", type=int)
    parser.add_argument("--batches", type=int, nargs="+", help="rows in a batch that peers try")
    parser.add_argument("--cpu-time", action="store_true", help="where others use the machine; with --threads 1")
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    compute = choose(options.device)
    cuda = compute.device.startswith("cuda")
    dtype = options.precision or compute.dtype
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{compute.description}, torch {torch.__version__}, transformers {transformers.__version__}")
    clock = time.process_time if options.cpu_time else time.perf_counter
    lines = []
    for case in CUDA_CASES if cuda else CPU_CASES:
        if not options.case or options.case.lower() in case.name.lower():
            console.print(case.name)
            lines += measure(settled(case, options), compute.device, dtype, clock, console)
    console.print(table(lines))
    about: dict[str, Any] = {"device": compute.description, "machine": platform.processor(), "torch": torch.__version__}
    about |= {"threads": torch.get_num_threads(), "clock": "CPU time" if options.cpu_time else "wall time"}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**about, "quick": options.quick, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
