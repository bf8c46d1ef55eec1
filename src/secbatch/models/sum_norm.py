"""Which code makes the norm of a sum in one pass over memory: our own, on a CPU compiled and on a GPU in Triton."""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from secbatch.models import kernel_refusals, native
from secbatch.models.out_of_memory import is_out_of_memory

SumNorm = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def sum_norm(weight: Tensor) -> SumNorm | None:
    """f(x, residual, weight, bias, eps): the layer norm of x + residual [T, width], whose sums are not rounded.

    For norms with such a `weight` [width]; None where no code of ours runs.
    """
    if native.norms(weight):
        return native.norm_of_sum
    return _kernel(weight.device, weight.dtype, len(weight))


@cache
def _kernel(device: torch.device, dtype: torch.dtype, width: int) -> SumNorm | None:
    """The kernel of sum_norm_kernel.py, where it runs and gives the right thing."""
    kernels = kernel_refusals.module("sum_norm_kernel", device, dtype)
    if kernels is None or width > kernels.WIDEST:
        return None
    with torch.inference_mode(), torch.cuda.device(device):
        numbers = torch.linspace(-2.0, 2.0, 8 * width, device=device).mul(99).sin().to(dtype).view(8, width)
        x, residual, (weight, bias) = numbers[:3], numbers[3:6], numbers[6:]
        try:
            got = kernels.norm_of_sum(x, residual, weight, bias, 1e-5)
        except kernel_refusals.refusals() as problem:
            if is_out_of_memory(problem):  # which says nothing of the kernel: it is tried again
                raise
            kernel_refusals.note(problem)
            return None
        wanted = F.layer_norm(x.float() + residual.float(), (width,), weight.float(), bias.float(), 1e-5)
        if not torch.allclose(got.float(), wanted, atol=0.05):
            return None

    def on_its_gpu(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        with torch.cuda.device(device):  # Triton launches on the current GPU, wherever its operands are
            normed: Tensor = kernels.norm_of_sum(x, residual, weight, bias, eps)
            return normed

    return on_its_gpu
