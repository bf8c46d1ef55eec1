"""What int8 products would cost in an encoder's layers: python benchmarks/int8_speed.py [--rows N]

The four products of a layer of RoBERTa-base's shape, with the GELU and the sums that follow them: in float32 and
bfloat16 as secbatch computes them, and in int8 with what torch has (onednn::qlinear_pointwise, weights prepacked): the
product alone, and with what it takes to round activations by token before it and to scale its result after it, block
by block in the caches. Processor time of one thread, medians of rounds in turn.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from secbatch.models.linear import Linear

SHAPES = (  # inputs, outputs, what follows
    (768, 2304, "nothing"),
    (768, 768, "sum"),
    (768, 3072, "gelu"),
    (3072, 768, "sum"),
)
BLOCK = 512  # rows that are rounded, multiplied and scaled at a time; 128, 256 and 2,048 were slower
Way = Callable[[], torch.Tensor]


class Int8Product:
    """x [T, in] to [T, out] by int8 products, with a scale for each token and each output channel.

    Activations are unsigned: with signed ones oneDNN falls back to a reference that is some thousand times as slow
    on CPUs without AMX.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, channels: int = 0, parts: int = 1) -> None:
        """`channels`: so many of the inputs stay in float32. `parts`: 2 for activations of 16 bits in two products."""
        self._few, self._parts, self._bias = torch.arange(channels), parts, bias
        self._few_weights = weight[:, :channels].t().contiguous()
        weight = weight.index_fill(1, self._few, 0.0)
        self._scale = weight.abs().amax(1) / 127
        numbers = (weight / self._scale[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(numbers, [BLOCK, weight.shape[1]])
        self._zero = torch.zeros(len(weight), dtype=torch.int32)
        self._sums = numbers.float().sum(1) * self._scale

    def alone(self, numbers: torch.Tensor) -> torch.Tensor:
        """`numbers`: [T, in] uint8."""
        multiply = torch.ops.onednn.qlinear_pointwise
        product: torch.Tensor = multiply(
            numbers, 1.0, 0, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return product

    def __call__(self, x: torch.Tensor, follows: str, residual: torch.Tensor) -> torch.Tensor:
        result = torch.empty(len(x), len(self._bias))
        for rows in range(0, len(x), BLOCK):
            block = result[rows : rows + BLOCK]
            self._into(block, x[rows : rows + BLOCK])
            if follows == "gelu":
                torch.ops.aten.gelu_(block)
            elif follows == "sum":
                block.add_(residual[rows : rows + BLOCK])
        return result

    def _into(self, result: torch.Tensor, x: torch.Tensor) -> None:
        bias = self._bias
        if len(self._few):
            bias = torch.addmm(bias, x[:, self._few], self._few_weights)
            x = x.index_fill(1, self._few, 0.0)
        for part in range(self._parts):
            low, high = torch.aminmax(x, dim=1, keepdim=True)
            low, high = low.clamp(max=0), high.clamp(min=0)
            scale = (high - low).div_(255).clamp_(min=1e-9)
            zero = (-low / scale).round_()
            numbers = (x / scale).add_(zero + 0.5).to(torch.uint8)
            shift = torch.addcmul(bias, -(zero * scale), self._sums)
            torch.addcmul(shift, self.alone(numbers), scale, out=result)
            if part + 1 < self._parts:
                x, bias = x - (numbers.float() - zero) * scale, result


def ways(inputs: int, outputs: int, follows: str, rows: int) -> dict[str, Way]:
    weight, bias, x = torch.randn(outputs, inputs) * 0.04, torch.randn(outputs), torch.randn(rows, inputs)
    residual = torch.randn(rows, outputs)
    exact = _ours(weight, bias, x, follows, residual)
    found = {"float32": exact, "bfloat16": _ours(weight.bfloat16(), bias.bfloat16(), x.bfloat16(), follows, residual)}
    plain, apart, twice = (Int8Product(weight, bias, *how) for how in ((0, 1), (32, 1), (0, 2)))
    numbers = torch.randint(0, 256, x.shape, dtype=torch.uint8)
    found["int8, the product alone"] = lambda: plain.alone(numbers)
    found["int8 by token"] = lambda: plain(x, follows, residual)
    found["int8 by token, 32 channels in float32"] = lambda: apart(x, follows, residual)
    found["int8 by token, two products"] = lambda: twice(x, follows, residual)
    wanted = exact()
    for name, limit in (("int8 by token", 0.02), ("int8 by token, two products", 0.02)):
        error = float((found[name]() - wanted).abs().mean() / wanted.abs().mean())
        if error > limit:
            raise SystemExit(f"{name} of {inputs} to {outputs} is off by {error:.1%}: this build multiplies otherwise.")
    return found


def _ours(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor, follows: str, residual: torch.Tensor) -> Way:
    layer, residual = Linear(weight, bias), residual.to(x.dtype)
    if follows == "gelu":
        return lambda: layer.gelu(x)
    return (lambda: layer.plus(x, residual)) if follows == "sum" else (lambda: layer(x))


def medians(found: dict[str, Way], rounds: int) -> dict[str, float]:
    """Milliseconds of this thread's processor time."""
    spent: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, way in found.items():
            begin = time.thread_time()
            way()
            if turn:  # the first one warms
                spent[name].append(time.thread_time() - begin)
    return {name: 1e3 * float(np.median(seconds)) for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        table = [medians(ways(*shape, options.rows), options.rounds) for shape in SHAPES]
    print(
        f"{options.rows:,} rows, ms" + " " * 26 + "".join(f"{f'{a} x {b}':>13}" for a, b, _ in SHAPES) + f"{'all':>18}"
    )
    whole = sum(one["float32"] for one in table)
    for name in table[0]:
        spent = [one[name] for one in table]
        print(
            f"{name:40}"
            + "".join(f"{each:>13.1f}" for each in spent)
            + f"{sum(spent):>9.0f} {whole / sum(spent):>6.2f} x"
        )
        if "by token" in name:
            spent[-1] = table[-1]["float32"]
            print(f"{'  … the last product in float32':79}{'':13}{sum(spent):>9.0f} {whole / sum(spent):>6.2f} x")
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "shapes": SHAPES, "milliseconds": table}, indent=1))


if __name__ == "__main__":
    main()
