"""What each step of the encoders' fast path brings: python benchmarks/encoder_steps.py [--precision P] [--device D]

Today's code with its steps taken back one by one, in random order over the same sentences, the model stage alone:
fill-mask on a model of RoBERTa-base's shape with random weights, one mask a sentence. With --budget or --block, sizes
of batches or of a batch's blocks instead. Each is held against plain products right before and after it, so that a
machine which is fast at one moment and slow at the next does not matter.
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from encoder_model import fill_mask_flops, head_flops, model_flops, model_tokenizer, roberta_base
from encoder_ours import ModelAlone
from gemm import GemmRate
from sentences import distinct_sentences

from secbatch.models import (
    encoder,
    encoder_bert,
    linear,
    masked_lm_head_packed,
    native,
    packed,
    packed_attention,
    packed_attention_groups,
    packed_encoder,
    streams,
)
from secbatch.models.device import choose
from secbatch.models.linear import Linear

Change = Callable[[ExitStack], None]


def padded(stack: ExitStack) -> None:
    """The model's own forward over padded rectangles."""
    stack.enter_context(patch.object(encoder, "_fast_path", lambda base, device: None))
    stack.enter_context(patch.object(masked_lm_head_packed, "_parts", _no_parts))


def _no_parts(model: Any) -> Any:
    raise TypeError("taken back")


def plain(stack: ExitStack) -> None:
    """Weights as they are: F.linear, F.gelu, a sum."""
    for module in (linear, packed_encoder):
        stack.enter_context(patch.object(module, "has_blocked_layers", lambda dtype: False))


def unfused(stack: ExitStack) -> None:
    """Blocked weights, but GELU and residual sum by themselves."""
    stack.enter_context(patch.object(Linear, "gelu", lambda self, x: torch.nn.functional.gelu(self(x))))
    stack.enter_context(patch.object(Linear, "plus", lambda self, x, residual: self(x).add_(residual)))


def everywhere(stack: ExitStack) -> None:
    """The last layer for all tokens; masks are picked afterwards."""
    call = encoder_bert.PackedBert.__call__

    def whole(self: Any, sequences: Any, at: np.ndarray | None = None) -> torch.Tensor:
        states = call(self, sequences)
        return states if at is None else states[torch.from_numpy(at).to(states.device)]

    stack.enter_context(patch.object(encoder_bert.PackedBert, "__call__", whole))


def whole_batches(stack: ExitStack) -> None:
    """Small batches, each through all layers at once."""
    stack.enter_context(patch.object(packed, "BLOCK_TOKENS", 1 << 30))


def blocks_of(tokens: int) -> Change:
    """So many tokens a block."""

    def change(stack: ExitStack) -> None:
        stack.enter_context(patch.object(packed, "block_size", lambda _, threads: tokens))

    return change


def in_turn(stack: ExitStack) -> None:
    """Block after block, each by all cores."""

    def by_all(works: Sequence[streams.Steps[streams.Made]], _: int) -> list[streams.Made]:
        work = streams._Work(works)
        work.go_on()
        return work.made()

    stack.enter_context(patch.object(packed_encoder, "side_by_side", by_all))
    stack.enter_context(patch.object(packed, "block_size", lambda _, threads: packed.BLOCK_TOKENS))


def odd_keys(stack: ExitStack) -> None:
    """Attention to as many keys as there are, also where they fill no vector."""
    stack.enter_context(patch.object(packed_attention_groups, "FEWEST", packed_attention_groups.LANES))


def by_groups(stack: ExitStack) -> None:
    """Attention in torch's kernel, one length after another."""
    stack.enter_context(patch.object(native, "runs", lambda device, dtype, dim: False))
    stack.enter_context(patch.object(packed_attention, "short_attention", lambda *_: None))
    stack.enter_context(patch.object(packed_attention, "has_flash_attention", lambda *_: False))


def sums_within_products(stack: ExitStack) -> None:
    """Norms are torch's, of sums that a product makes and rounds."""
    stack.enter_context(patch.object(packed, "sum_norm", lambda weight: None))


PRODUCTS_SECONDS = 0.15
SMALL_BATCH = 2048  # tokens, where batches are not cut into blocks

_KERNELS = (odd_keys, by_groups, sums_within_products)
# In the order of history; each has what those before it have.
STEPS: tuple[tuple[str, tuple[Change, ...]], ...] = (
    ("padded, sorted by length; head at masks", (padded, everywhere, in_turn, whole_batches)),
    ("packed: no padding", (plain, everywhere, in_turn, whole_batches, *_KERNELS)),
    ("weights in oneDNN's layout", (unfused, everywhere, in_turn, whole_batches, *_KERNELS)),
    ("GELU and residual sum fused", (everywhere, in_turn, whole_batches, *_KERNELS)),
    ("last layer at masks only", (in_turn, whole_batches, *_KERNELS)),
    ("large batches, layer by layer and block by block", (in_turn, *_KERNELS)),
    ("attention to whole vectors of keys", (in_turn, by_groups, sums_within_products)),
    ("attention in code of our own", (in_turn, sums_within_products)),
    ("residual sum within the norm, in code of our own", (in_turn,)),
    ("blocks side by side, some cores each", ()),
)


@contextmanager
def taken_back(changes: tuple[Change, ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for change in changes:
            change(stack)
        yield


@dataclass
class Variant:
    name: str
    model: ModelAlone
    changes: tuple[Change, ...] = ()
    budget: int | None = None
    spent: list[float] = field(default_factory=list)  # seconds
    products: list[float] = field(default_factory=list)  # operations a second of plain products beside each

    def measure(self, gemm: GemmRate, warming: bool) -> None:
        if self.budget:
            self.model.encoder.token_budget = self.budget
        before = gemm.measure(PRODUCTS_SECONDS)
        with taken_back(self.changes):
            seconds = self.model.seconds()
        if not warming:
            self.spent.append(seconds)
            self.products.append((before + gemm.measure(PRODUCTS_SECONDS)) / 2)

    def share(self, flops: float) -> float:
        """Of the products' rate."""
        return float(np.median(flops / np.array(self.spent) / np.array(self.products)))


def measure(options: argparse.Namespace, folder: Path) -> None:
    sentences = distinct_sentences(options.sentences, options.rows)
    tokenizer = model_tokenizer(options.tokenizer)
    vocabulary = roberta_base(tokenizer, folder)
    compute = choose(options.device, options.precision)
    made: list[Variant] = []
    for name, changes in STEPS[-options.last :] if not (options.budget or options.block) else ():
        with taken_back(changes):
            model = ModelAlone("fill-mask", folder, sentences, options.device, compute.dtype)
            small = SMALL_BATCH if compute.device == "cpu" and whole_batches in changes else None
            made.append(Variant(name, model, changes, small))
    if not made:
        model = ModelAlone("fill-mask", folder, sentences, options.device, compute.dtype)
        made = [
            Variant(
                f"{budget:,} tokens a batch" + (f", {block:,} a block" if block else ""),
                model,
                (blocks_of(block),) if block else (),
                budget,
            )
            for budget in options.budget or [model.encoder.token_budget]
            for block in options.block or [0]
        ]
    gemm = GemmRate(compute.device, compute.torch_dtype)
    for turn in range(options.rounds + 1):
        for variant in random.sample(made, len(made)):
            variant.measure(gemm, warming=turn == 0)
    tokens = made[0].model.tokens
    print(
        f"{len(sentences):,} sentences of {tokens / len(sentences):.1f} tokens; {compute.description}, {compute.dtype}"
    )
    print(f"matrix products beside it: {gemm.median / 1e9:,.0f} GFLOP/s in the middle, {gemm.best / 1e9:,.0f} at best")
    print(f"{'':50}{'sentences/s':>12}{'GFLOP/s':>10}{'of the products':>17}")
    for variant in made:
        flops = fill_mask_flops(tokens, len(sentences), vocabulary)
        if everywhere in variant.changes:
            flops = model_flops(tokens) + head_flops(len(sentences), vocabulary)
        seconds = float(np.median(variant.spent))
        rate, share = flops / seconds, variant.share(flops)
        print(f"{variant.name:50}{len(sentences) / seconds:>12,.1f}{rate / 1e9:>10,.0f}{share:>17.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--last", type=int, default=len(STEPS), help="only so many of the steps, the last ones")
    parser.add_argument("--budget", type=int, nargs="+", help="compare these tokens a batch instead")
    parser.add_argument("--block", type=int, nargs="+", help="compare these tokens a block of a CPU's batch instead")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer's files; the built-in one if left out")
    parser.add_argument("--sentences", type=Path, help="one sentence a line; the bundled reports if left out")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
