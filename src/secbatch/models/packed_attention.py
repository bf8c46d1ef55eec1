"""Attention over sequences laid end to end.

Everywhere it can run on groups of sequences of one length, which are contiguous because batches are sorted by length: a
group is a [count, heads, length, head_dim] view (packed_attention_groups.py). On a CPU with AVX-512 code of our own
takes sequences of all lengths but the longest (native). On a GPU in half precision one kernel takes them all: for
short ones our own, where Triton runs, for others torch's, where it has it.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from secbatch.models import kernel_refusals, native
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.packed import Block
from secbatch.models.packed_attention_groups import attend_by_groups


def attend(
    qkv: torch.Tensor, block: Block, window: int | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Bidirectional attention within each sequence: [T, 3, heads, head_dim] to [T, heads × head_dim].

    With `window`, a token sees those at most `window` positions away. `bias`: what a key's place before or behind a
    query adds to its score, as of `native.attend_within`; not beside a window, nor on a GPU.
    """
    tokens, _, _, dim = qkv.shape
    if block.bounds is not None:
        if block.longest <= native.LONGEST and native.runs(qkv.device, qkv.dtype, dim):
            return flattened(block, native.attend_within(qkv, block.bounds, window, bias))
        seen = None if window is None or block.longest <= window + 1 else window  # what shortens anybody's view
        if seen is None and (kernel := short_attention(qkv.device, qkv.dtype, dim, block.longest)):
            with torch.cuda.device(qkv.device):  # Triton launches on the current GPU, wherever its operands are
                return kernel(qkv, block.bounds, block.longest).view(tokens, -1)
        if has_flash_attention(qkv.device, qkv.dtype, dim, seen):
            return flash_attention(qkv, block.bounds, block.longest, seen).view(tokens, -1)
    return flattened(block, attend_by_groups(qkv, block.groups, window, block.neighbours, bias))


def flattened(block: Block, mixed: torch.Tensor) -> torch.Tensor:
    """[T, heads, head_dim] to [T, heads × head_dim], with zeros for filling."""
    mixed[block.tokens :] = 0  # whatever lies in memory may be no number, which is slow
    return mixed.view(len(mixed), -1)


def flash_attention(qkv: torch.Tensor, bounds: torch.Tensor, longest: int, window: int | None = None) -> torch.Tensor:
    """`attend` in one kernel for all lengths, [T, heads, head_dim]; tokens of no sequence get what lies in memory.

    `bounds`: [n + 1] int32, where sequences begin and end; none is longer than `longest`. It is the operator behind
    torch.nn.attention.varlen, whose import takes a second. (Dao 2023, arXiv:2307.08691.)
    """
    operator, (query, key, value) = torch.ops.aten._flash_attention_forward, qkv.unbind(1)
    sides = {} if window is None else {"window_size_left": window, "window_size_right": window}
    mixed: torch.Tensor = operator(query, key, value, bounds, bounds, longest, longest, 0.0, False, False, **sides)[0]
    return mixed


Kernel = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def short_attention(device: torch.device, dtype: torch.dtype, width: int, longest: int) -> Kernel | None:
    """The kernel of packed_attention_kernel.py, where it runs, gives the right thing, and takes sequences so long."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    return _short_attention(device, dtype, width, 1 << (longest - 1).bit_length())


@cache
def _short_attention(device: torch.device, dtype: torch.dtype, width: int, longest: int) -> Kernel | None:
    kernels = kernel_refusals.module("packed_attention_kernel", device, dtype)
    if kernels is None or longest > kernels.LONGEST:
        return None
    attend: Kernel = kernels.attend
    return attend if _is_right(attend, device, dtype, width, longest, kernel_refusals.refusals()) else None


@cache
def has_flash_attention(device: torch.device, dtype: torch.dtype, width: int, window: int | None = None) -> bool:
    """Whether `flash_attention` runs there, for heads of `width`, and gives the right thing."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    refusals = (RuntimeError, TypeError)  # an older GPU, a width that the kernel does not know, another torch
    longest = 17 if window is None else window + 30
    return _is_right(flash_attention, device, dtype, width, longest, refusals, window)


def _is_right(
    kernel: Callable[..., torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    width: int,
    longest: int,
    refusals: tuple[type[Exception], ...],
    *window: int | None,
) -> bool:
    """Whether `kernel(qkv, bounds, longest, *window)` gives what `attend` gives group by group."""
    lengths = [longest, longest // 2 + 1, min(longest, 3)]
    ends = np.cumsum([0, *lengths])
    tokens = int(ends[-1])
    groups = tuple((int(first), 1, length) for first, length in zip(ends, lengths, strict=False))
    block = Block(torch.zeros(0), torch.zeros(0), None, tokens, groups)
    with torch.inference_mode(), torch.cuda.device(device):
        numbers = torch.linspace(-2.0, 2.0, 3 * tokens * 2 * width, dtype=torch.float32, device=device).mul(99).sin()
        qkv = numbers.view(tokens, 3, 2, width).to(dtype)
        try:
            got = kernel(qkv, torch.from_numpy(ends.astype(np.int32)).to(device), longest, *window)
        except refusals as problem:
            if is_out_of_memory(problem):  # which says nothing of the kernel: it is tried again
                raise
            kernel_refusals.note(problem)
            return False
        wanted = attend(qkv, block, window[0] if window else None)
        return bool(torch.allclose(got.flatten(1).float(), wanted.float(), atol=0.05))
