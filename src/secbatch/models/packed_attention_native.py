"""Attention over sequences laid end to end on a CPU with AVX-512, in code of our own (native/attention.c).

torch's kernel for CPUs calls a library's matrix product for each head of each sequence, which for short ones takes
longer to begin than to do. The code is compiled when the package is installed; where it is not, nothing else changes.
"""

from functools import cache

import numpy as np
import torch

try:
    from secbatch.models.native import attention as native
except ImportError:  # no C compiler, another processor family, another system
    native = None  # type: ignore[assignment]

# As in native/attention.h. For longer sequences torch's kernel is as fast.
LONGEST = 512
WIDEST = 128
LANES = 16
_EVERYTHING = 1 << 20  # a window beyond every sequence


@cache
def is_native(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether it runs there, for heads of `dim` numbers."""
    known = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and 0 < dim <= WIDEST and dim % LANES == 0
    return known and native is not None and native.supported()


def attend(qkv: torch.Tensor, bounds: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """Bidirectional attention within each sequence: [T, 3, heads, dim] to [T, heads, dim]; see `is_native`.

    `bounds`: [n + 1] int32, ascending, where sequences of at most LONGEST tokens begin and end; tokens of no sequence
    get what lies in memory. With `window`, a token sees those at most `window` positions away. A sequence's result is
    the same bits whatever lies beside it. Raises ValueError for other tensors, TypeError for `bounds` on a GPU and
    MemoryError.
    """
    tokens, three, heads, dim = qkv.shape
    lengths = np.diff(bounds.numpy())
    if not (
        three == 3
        and is_native(qkv.device, qkv.dtype, dim)
        and qkv.is_contiguous()
        and bounds.dtype == torch.int32
        and bounds.is_contiguous()
        and len(lengths)
        and int(bounds[0]) >= 0
        and int(bounds[-1]) <= tokens
        and int(lengths.min()) >= 0
        and int(lengths.max()) <= LONGEST
    ):
        raise ValueError("These tensors are not what attention in native code is for.")
    out = qkv.new_empty(tokens, heads, dim)
    native.attend(
        qkv.data_ptr(),
        out.data_ptr(),
        bounds.data_ptr(),
        len(lengths),
        heads,
        dim,
        _EVERYTHING if window is None else min(window, _EVERYTHING),
        qkv.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out
