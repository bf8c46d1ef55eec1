"""Attention on a CPU with AVX-512, and the norm of a sum, in code of our own.

torch's kernel for CPUs calls a library's matrix product for each head of each sequence, which for few tokens takes
longer to begin than to do, and reads what a mask hides. The code is compiled when the package is installed; where it is
not, attention goes torch's way.
"""

from functools import cache

import numpy as np
import torch

_INTERFACE = 2  # attention.h; code without a number is of the first

try:
    from secbatch.models.native import attention as _code
except ImportError:  # no C compiler, another processor family, another system
    _code = None  # type: ignore[assignment]
    installed = False
else:
    installed = True
    if getattr(_code, "INTERFACE", 1) != _INTERFACE:  # left by an earlier installation: sources changed, it did not
        _code = None  # type: ignore[assignment]

LONGEST = 512  # tokens of a sequence; for longer ones torch's kernel is as fast
WIDEST = 128  # numbers of a head
BIAS_WIDTH = 2 * LONGEST + 16
_EVERYTHING = 1 << 20  # a window beyond every sequence


@cache
def runs(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether it runs there, for heads of `dim` numbers."""
    known = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and 0 < dim <= WIDEST
    return known and _code is not None and _code.supported()


def obstacle() -> str:
    """Why it does not run on a processor that could run it, and how to mend that, as one sentence."""
    again = "install secbatch again (docs/operations.md) for faster encoders and Blenderbot on this CPU"
    if not installed:
        return f"attention in compiled code is not installed: get a C compiler and Python's headers, and {again}"
    if _code is None:
        return f"attention in compiled code was compiled for another version of secbatch: {again}"
    return (
        "attention in compiled code is not used, as torch's OpenMP threads were not found (GOMP_parallel): encoders and"
        " Blenderbot are slower on this CPU than with a torch from PyPI"
    )


def attend_within(
    qkv: torch.Tensor, bounds: torch.Tensor, window: int | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Bidirectional attention within each sequence: [T, 3, heads, dim] to [T, heads, dim].

    `bounds`: [n + 1] int32, ascending, where sequences of at most LONGEST tokens begin and end; tokens of no sequence
    get what lies in memory. With `window`, a token sees those at most `window` positions away. `bias`: [heads,
    BIAS_WIDTH] float32; bias[:, LONGEST + j - i] is added to the score of key j for query i. A sequence's result is
    the same bits whatever lies beside it. Raises ValueError for other tensors, also for those whose gradients are
    wanted, and MemoryError.
    """
    _check(bounds.device.type == "cpu" and bounds.dtype == torch.int32 and bounds.is_contiguous())
    _check(bounds.dim() == 1 and len(bounds) > 1 and (window is None or window >= 0))
    tokens, three, heads, dim = qkv.shape
    _check(runs(qkv.device, qkv.dtype, dim) and three == 3 and qkv.is_contiguous() and _is_plain(qkv))
    ends = bounds.numpy()
    _check(ends[0] >= 0 and ends[-1] <= tokens and (ends[1:] >= ends[:-1]).all())
    lengths = np.diff(ends)
    _check(lengths.max() <= LONGEST)
    if bias is not None:
        _check(bias.shape == (heads, BIAS_WIDTH) and bias.dtype == torch.float32 and bias.is_contiguous())
        _check(bias.device.type == "cpu" and _is_plain(bias))
    out = qkv.new_empty(tokens, heads, dim)
    if not out.numel():
        return out
    _code.within(
        qkv.data_ptr(),
        out.data_ptr(),
        bounds.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        len(lengths),
        heads,
        dim,
        _EVERYTHING if window is None else min(window, _EVERYTHING),
        qkv.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def attend_cache(query: torch.Tensor, pairs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, H, K, D] over keys and values side by side, [B, H, N, 2 * D] with contiguous lines: [B, K, H, D].

    `mask`: [B, 1, K or 1, N] of 0 and minus infinity. A query that sees nothing gets zeros. A row's result is the same
    bits whatever lies beside it, and wherever in the cache the keys that it sees lie. Raises ValueError for other
    tensors, also for those whose gradients are wanted, and MemoryError.
    """
    rows, heads, queries, dim = query.shape
    keys = pairs.shape[2]
    _check(runs(query.device, query.dtype, dim) and query.dtype == pairs.dtype == mask.dtype)
    _check(pairs.shape == (rows, heads, keys, 2 * dim) and mask.shape in ((rows, 1, queries, keys), (rows, 1, 1, keys)))
    _check(pairs.device == mask.device == query.device and query.stride(3) == pairs.stride(3) == mask.stride(3) == 1)
    _check(pairs.stride(2) == 2 * dim and _is_plain(query, pairs, mask))
    out = query.new_empty(rows, queries, heads, dim)
    if not out.numel():
        return out
    size = query.element_size()
    steps = (
        *query.stride()[:3],
        *pairs.stride()[:2],
        mask.stride(0),
        mask.stride(2) if mask.shape[2] > 1 else 0,
    )
    _code.cache(
        (query.data_ptr(), pairs.data_ptr(), mask.data_ptr(), out.data_ptr()),
        (rows, heads, queries, keys, dim),
        tuple(step * size for step in steps),  # type: ignore[arg-type]
        query.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def norms(weight: torch.Tensor) -> bool:
    """Whether sums are normed there, in the format and on the device of a norm's `weight`."""
    return runs(weight.device, weight.dtype, 1)


def norm_of_sum(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """The layer norm of x + residual [T, width], with `weight` and `bias` [width]; sums are not rounded to bfloat16.

    A row's result is the same bits whatever lies beside it. Raises ValueError for other tensors, also for those whose
    gradients are wanted, and MemoryError.
    """
    rows, width = x.shape
    _check(norms(weight) and all(each.is_contiguous() for each in (x, residual, weight, bias)))
    _check(x.shape == residual.shape and weight.shape == bias.shape == (width,))
    _check(x.dtype == residual.dtype == weight.dtype == bias.dtype and _is_plain(x, residual, weight, bias))
    _check(x.device == residual.device == bias.device == weight.device)
    out = torch.empty_like(x)
    if out.numel():
        tensors = (x.data_ptr(), residual.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr())
        _code.sum_norm(tensors, rows, width, eps, x.dtype == torch.bfloat16, torch.get_num_threads())
    return out


def _is_plain(*tensors: torch.Tensor) -> bool:
    """Whether memory holds their numbers, not the opposite of them, and nobody wants their gradients."""
    wanted = torch.is_grad_enabled()
    return not any(tensor.is_neg() or (wanted and tensor.requires_grad) for tensor in tensors)


def _check(is_so: object) -> None:
    if not is_so:
        raise ValueError("These tensors are not what attention in native code is for.")
