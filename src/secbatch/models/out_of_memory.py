"""What a lack of memory looks like."""

import torch

_SIGNS = (
    "can't allocate memory",  # torch's allocator on a CPU
    "could not create a primitive",  # oneDNN, which says the same of whatever its allocations are for
    "could not create a memory",
    "bad_alloc",  # C++
    "out of memory",  # CUDA's own calls, such as those for page-locked memory; its driver; Triton; other makers' GPUs
    "_STATUS_ALLOC_FAILED",  # cuBLAS and its sisters
)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, on a device or on the host: CUDA's allocator has an error class for it, others words."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(sign in str(problem) for sign in _SIGNS)
