"""What a layer's parts take on a CPU: python benchmarks/encoder_layer.py [--precision P] [--rows N] [--length N] …

One layer of RoBERTa-base's shape after another, over sequences of one length, and its parts by themselves, in turn.
Each is held against a plain product (2048 × 768 × 3072, hot in the caches) right before and after it, so that a machine
which is fast at one moment and slow at the next does not matter: a share of 100% is the rate of that product.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from encoder_model import HIDDEN, LAYERS, WIDE
from gemm import INNER, OUTER, ROWS

from secbatch.freed_memory import keep_freed_memory
from secbatch.models.device import choose
from secbatch.models.encoder_bert import PackedBert
from secbatch.models.linear import Linear
from secbatch.models.packed import Block
from secbatch.models.packed_attention import attend
from secbatch.models.packed_attention_groups import attend_by_groups
from secbatch.models.streams import Steps, side_by_side

HEADS = 12
PRODUCTS = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * WIDE  # multiplications a token in a layer's linear layers


@dataclass
class Part:
    name: str
    work: Callable[[int], object]  # the number of a layer
    flops: float  # of its linear layers; 0: it has none
    seconds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)  # of the product's rate beside it


def same_length(rows: int, length: int) -> Block:
    """Sequences of one length; the rows that are left over are filling."""
    nothing = torch.zeros(0, dtype=torch.int64)
    count = rows // length
    bounds = torch.arange(count + 1, dtype=torch.int32) * length
    return Block(nothing, nothing, None, count * length, ((0, count, length),), bounds, length)


def parts_of(net: PackedBert, rows: int, length: int, dtype: torch.dtype) -> list[Part]:
    x, wide = torch.randn(rows, HIDDEN, dtype=dtype), torch.randn(rows, WIDE, dtype=dtype)
    qkv = torch.randn(rows, 3, HEADS, HIDDEN // HEADS, dtype=dtype)
    block = same_length(rows, length)
    layers: list[Any] = net._layers

    def whole(blocks: int) -> Callable[[int], object]:
        size = rows // blocks
        piece = same_length(size, length)
        return lambda n: [
            net._after_attention(layers[n], net._attend(layers[n], part, piece, None), part) for part in x.split(size)
        ]

    def beside(blocks: int) -> Callable[[int], object]:
        size = rows // blocks
        piece = same_length(size, length)

        def one(n: int, part: torch.Tensor) -> Steps[torch.Tensor]:
            return net._after_attention(layers[n], net._attend(layers[n], part, piece, None), part)
            yield  # a generator of one step

        return lambda n: side_by_side([one(n, part) for part in x.split(size)], blocks)

    def without_attention(n: int) -> object:
        layers[n].qkv(x)
        return net._after_attention(layers[n], x, x)

    def sums_within_products(n: int) -> object:
        one = layers[n]
        after = one.attention_norm(one.out.plus(net._attend(one, x, block, None), x))
        return one.output_norm(one.down.plus(one.up.gelu(after), after))

    def flops(inner: int, outer: int) -> float:
        return 2.0 * rows * inner * outer

    layer = 2.0 * rows * PRODUCTS
    return [
        Part("layer", whole(1), layer),
        Part("layer, in 2 blocks", whole(2), layer),
        Part("layer, in 4 blocks", whole(4), layer),
        Part("layer, 2 blocks side by side", beside(2), layer),
        Part("layer, 4 blocks side by side", beside(4), layer),
        Part("layer without attention", without_attention, layer),
        Part("query, key, value", lambda n: layers[n].qkv(x), flops(HIDDEN, 3 * HIDDEN)),
        Part("attention", lambda n: attend(qkv, block), 0),
        Part("attention, by groups", lambda n: attend_by_groups(qkv, block.groups, None, True), 0),
        Part("attention's output", lambda n: layers[n].out(x), flops(HIDDEN, HIDDEN)),
        Part("attention's output, sum within", lambda n: layers[n].out.plus(x, x), flops(HIDDEN, HIDDEN)),
        Part("up", lambda n: layers[n].up(x), flops(HIDDEN, WIDE)),
        Part("up, GELU within", lambda n: layers[n].up.gelu(x), flops(HIDDEN, WIDE)),
        Part("down", lambda n: layers[n].down(wide), flops(WIDE, HIDDEN)),
        Part("down, sum within", lambda n: layers[n].down.plus(wide, x), flops(WIDE, HIDDEN)),
        Part("down, sum after", lambda n: layers[n].down(wide).add_(x), flops(WIDE, HIDDEN)),
        Part("norm", lambda n: layers[n].output_norm(x), 0),
        Part("norm, sum within", lambda n: layers[n].output_norm.of_sum(x, x), 0),
        Part("layer, sums within products", lambda n: sums_within_products(n), layer),
    ]


@torch.inference_mode()
def measure(options: argparse.Namespace) -> None:
    keep_freed_memory()  # as in a job: otherwise parts would pay for new pages
    compute = choose("cpu", options.precision)
    dtype = compute.torch_dtype
    torch.manual_seed(0)
    base: Any = transformers.RobertaModel(transformers.RobertaConfig())  # RoBERTa-base's shape
    base = base.to(dtype).eval()
    parts = parts_of(PackedBert(base, "cpu"), options.rows, options.length, dtype)
    product = Linear(torch.randn(OUTER, INNER, dtype=dtype), torch.randn(OUTER, dtype=dtype))
    hot, flops = torch.randn(ROWS, INNER, dtype=dtype), 2.0 * ROWS * INNER * OUTER
    rates: list[float] = []

    def timed(work: Callable[[int], object], n: int) -> float:
        begin = time.perf_counter()
        work(n)
        return time.perf_counter() - begin

    for turn in range(-2, options.rounds):  # two to warm
        for part in random.sample(parts, len(parts)):  # what comes second would find its input in the caches
            before = timed(lambda n: product(hot), 0)
            seconds = timed(part.work, turn % LAYERS)
            rate = 2 * flops / (before + timed(lambda n: product(hot), 0))
            if turn >= 0:
                rates.append(rate)
                part.seconds.append(seconds)
                part.shares.append(part.flops / seconds / rate)
    low, middle, high = np.percentile(rates, [10, 50, 90]) / 1e9
    print(f"{compute.description}, {compute.dtype}; {options.rows:,} rows of sequences of {options.length} tokens")
    print(f"plain product: {middle:,.0f} GFLOP/s in the middle, {low:,.0f} to {high:,.0f} in 8 of 10 cases")
    print(f"{'':34}{'ms':>8}{'a tenth below':>15}{'GFLOP/s':>10}{'of the product':>16}")
    for part in parts:
        seconds = float(np.median(part.seconds))
        reached = f"{part.flops / seconds / 1e9:>10,.0f}{np.median(part.shares):>16.0%}" if part.flops else ""
        print(f"{part.name:34}{seconds * 1e3:>8.2f}{np.percentile(part.seconds, 10) * 1e3:>15.2f}{reached}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", type=int, default=2048, help="tokens of a block")
    parser.add_argument("--length", type=int, default=27, help="tokens of a sequence")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    measure(options)


if __name__ == "__main__":
    main()
