"""Which kernel looks back over the cache in a single step of generation."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from secbatch.models import kernel_refusals, native
from secbatch.models.out_of_memory import is_out_of_memory

Attention = Callable[..., Tensor]


def attention(device: torch.device, dtype: torch.dtype, width: int) -> Attention:
    """Of queries [B, H, K, D] over keys and values side by side, [B, H, N, 2 * D]: [B, K, H, D].

    Its third argument is a mask [B, 1, K or 1, N] of 0 and minus infinity. D is `width`.
    """
    if native.runs(device, dtype, width):
        return native.attend_cache
    return _own(device, dtype, width) or by_torch


def by_torch(query: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
    width = query.shape[-1]
    return scaled_dot_product_attention(query, pairs[..., :width], pairs[..., width:], mask).transpose(1, 2)


@cache
def _own(device: torch.device, dtype: torch.dtype, width: int) -> Attention | None:
    """The kernel of generation_attention_kernel.py, where Triton runs and it gives the right thing."""
    kernels = kernel_refusals.module("generation_attention_kernel", device, dtype)
    if kernels is None:
        return None
    attend: Attention = kernels.attend
    with torch.inference_mode(), torch.cuda.device(device):
        for queries in (1, 10):
            numbers = torch.linspace(-2.0, 2.0, 3 * 2 * (queries + 300) * width, device=device).mul(99).sin().to(dtype)
            query, pairs = numbers[: 6 * queries * width], numbers[6 * queries * width :]
            inputs = query.view(3, queries, 2, width).transpose(1, 2), pairs.view(3, 2, 150, 2 * width)
            mask = torch.zeros(3, 1, queries, 150, device=device, dtype=dtype)
            mask[0, :, :, 3:], mask[1, :, :, :140] = -torch.inf, -torch.inf
            try:
                got = attend(*inputs, mask)
            except kernel_refusals.refusals() as problem:
                if is_out_of_memory(problem):  # which says nothing of the kernel: it is tried again
                    raise
                kernel_refusals.note(problem)
                return None
            if not torch.allclose(got.float(), by_torch(*inputs, mask).float(), atol=0.02):
                return None
    return attend
