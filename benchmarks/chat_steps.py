"""Where a step of generation goes on a GPU: python benchmarks/chat_steps.py [--questions N] [--json FILE].

Blenderbot-400M's shape in bfloat16. Kernels by time and launches a step for ten beams and for greedy search, and what
the attention over the cache costs by each of torch's ways at the shapes that it has there.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from chat import questions, settings_for
from chat_models import blenderbot
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from secbatch.models.generation import Generator, Prompt
from secbatch.models.generation_attention import attention as our_attention
from secbatch.models.generation_attention import by_torch
from secbatch.models.generation_blenderbot import BlenderbotSteps
from secbatch.models.generation_settings import position_limit
from secbatch.task_specs import Generation

RESULTS = Path(__file__).parent / "results" / "chat_steps.json"
HEADS, WIDTH = 32, 40
# rows, queries a row, keys: the answers so far and the questions, ten beams and greedy
SHAPES = ((256, 10, 256), (256, 10, 48), (2048, 1, 64), (2048, 1, 48))
TILINGS = ((64, 2), (32, 1), (32, 2), (64, 1), (64, 4), (128, 4))
BUDGETS = (131_072, 262_144, 524_288, 1_048_576)
WAYS = ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")


def steps_of(model: Any, count: int, job: Generation, console: Console) -> dict[str, Any]:
    settings = settings_for(model.generation_config, job, position_limit(model.config), True, "Blenderbot")
    made = Generator(model, settings)
    prompts = [Prompt(tokens) for tokens in questions(count, model.config.vocab_size, True)]
    made.generate(prompts)  # warm
    steps = 0
    step = BlenderbotSteps.step

    def counted(self: BlenderbotSteps, tokens: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return step(self, tokens)

    BlenderbotSteps.step = counted  # type: ignore[method-assign]
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    answers = made.generate(prompts).answers
    seconds, taken = time.perf_counter() - begin, steps
    memory = torch.cuda.max_memory_allocated() / 2**30
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        made.generate(prompts)
    BlenderbotSteps.step = step  # type: ignore[method-assign]
    events = profiled.key_averages()
    calls = {event.key: event.count / taken for event in events if event.key.startswith("cuda")}
    on_device = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [(event.self_device_time_total / taken / 1000, event.count / taken, event.key) for event in on_device]
    kernels.sort(reverse=True)
    console.print(
        f"{count} questions, {taken} steps, {seconds / taken * 1000:.2f} ms a step, {count / seconds:.0f} answers/s,"
        f" {memory:.1f} GiB at the peak; kernels {sum(kernel[0] for kernel in kernels):.2f} ms a step"
    )
    shown = Table("ms a step", "times a step", "kernel")
    for duration, times, name in kernels[:24]:
        shown.add_row(f"{duration:.3f}", f"{times:.1f}", name[:110])
    console.print(shown)
    halves = Generator(model, settings, made.budget // 2).generate(prompts).answers
    same = sum(one == other for one, other in zip(answers, halves, strict=True))
    console.print(f"the same answers in batches half as large: {same} of {count}")
    console.print("calls a step:", {name: round(times, 1) for name, times in sorted(calls.items())})
    return {
        "questions": count,
        "steps": taken,
        "seconds": seconds,
        "same": same,
        "kernels": kernels[:40],
        "calls": calls,
    }


def budgets(model: Any, count: int, job: Generation, console: Console) -> list[dict[str, Any]]:
    """Answers a second by how much goes through the model at a time."""
    settings = settings_for(model.generation_config, job, position_limit(model.config), True, "Blenderbot")
    prompts = [Prompt(tokens) for tokens in questions(count, model.config.vocab_size, True)]
    lines = []
    for budget in BUDGETS:
        made = Generator(model, settings, budget)
        made.generate(prompts[: count // 4])  # warm
        torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        made.generate(prompts)
        seconds, memory = time.perf_counter() - begin, torch.cuda.max_memory_allocated() / 2**30
        console.print(
            f"budget {budget:,}: {count} questions, {count / seconds:.0f} answers/s, {memory:.1f} GiB at the peak"
        )
        lines.append({"budget": budget, "questions": count, "seconds": seconds, "gib": memory})
    return lines


def by_products(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = (query @ keys.transpose(-1, -2)).mul_(query.shape[-1] ** -0.5).add_(mask)
    return scores.softmax(-1) @ values


def milliseconds(work: Callable[[], Any]) -> float:
    for _ in range(3):
        work()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(20):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 20


def attention(console: Console) -> list[dict[str, Any]]:
    """What looking back over the cache costs by each way, at the shapes that it has."""
    lines: list[dict[str, Any]] = []
    shown = Table("rows", "queries", "keys", "way", "ms", "GB/s", title="Attention over the cache")
    chosen = our_attention(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, WIDTH)
    for rows, queries, keys in SHAPES:
        made = torch.randn(rows * queries, 3 * HEADS * WIDTH, device="cuda", dtype=torch.bfloat16)
        query = made[:, : HEADS * WIDTH].view(rows, queries, HEADS, WIDTH).transpose(1, 2)
        pairs = torch.randn(rows, HEADS, keys, 2 * WIDTH, device="cuda", dtype=torch.bfloat16)
        mask = torch.zeros(rows, 1, queries, keys, device="cuda", dtype=torch.bfloat16)
        mask[..., 128:] = -torch.inf  # slots that no beam sees
        inputs = query, pairs[..., :WIDTH], pairs[..., WIDTH:], mask
        ways: dict[str, Callable[[], Any]] = {"products": partial(by_products, *inputs)}
        for name in WAYS:
            ways[name] = partial(in_way, getattr(SDPBackend, name), *inputs)
        if chosen is not by_torch:
            for tile, warps in TILINGS:
                ways[f"ours, {tile} keys, {warps} warps"] = partial(chosen, query, pairs, mask, tile, warps)
        for way, work in ways.items():
            try:
                duration = milliseconds(work)
            except RuntimeError as problem:  # a way that does not know these shapes
                shown.add_row(str(rows), str(queries), str(keys), way, str(problem)[:60], "")
                continue
            rate = pairs.numel() * 2 / duration / 1e6
            shown.add_row(str(rows), str(queries), str(keys), way, f"{duration:.3f}", f"{rate:.0f}")
            lines.append({"rows": rows, "queries": queries, "keys": keys, "way": way, "ms": duration})
    console.print(shown)
    if chosen is by_torch:
        console.print("Triton does not run here: no kernel of ours")
    return lines


def in_way(
    way: SDPBackend, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    with sdpa_kernel(way):
        return scaled_dot_product_attention(query, keys, values, mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=512, help="with ten beams; four times as many greedy")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    console = Console(highlight=False, soft_wrap=True, width=150)
    with torch.device("cuda"):
        model = blenderbot().to("cuda", torch.bfloat16)
    lines = {"attention": attention(console)}
    for name, count, job in (
        ("ten beams", options.questions, Generation()),
        ("greedy", 4 * options.questions, Generation(num_beams=1)),
    ):
        console.print(f"\nBlenderbot-400M, {name}")
        lines[name] = [steps_of(model, count, job, console), *budgets(model, 4 * count, job, console)]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), **lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
