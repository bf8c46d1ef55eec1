"""What a lack of memory looks like, and what it can leave behind."""

from itertools import count

import torch

_SIGNS = (
    "can't allocate memory",  # torch's allocator on a CPU
    "Cannot allocate memory",  # the system's words, where weights are mapped
    "could not create a primitive",  # oneDNN, which says the same of whatever its allocations are for
    "could not create a memory",
    "bad_alloc",  # C++
    "out of memory",  # CUDA's own calls, such as those for page-locked memory; its driver; Triton; other makers' GPUs
    "_STATUS_ALLOC_FAILED",  # cuBLAS and its sisters
    "when calling `cublasCreate",  # what it takes for itself, on each thread that begins to multiply: NOT_INITIALIZED
)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, on a device or on the host: CUDA's allocator has an error class for it, others words."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(sign in str(problem) for sign in _SIGNS)


def give_back(device: "str | torch.device") -> None:
    """What torch keeps of a GPU's memory for later: cuBLAS, Triton and the driver take theirs beside it."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


_fresh_sizes = count(1_000)


def onednn_is_stuck() -> bool:
    """Whether oneDNN can make nothing new on this thread, for ever.

    What generates its code (Xbyak) keeps an error once it had no memory, on each thread by itself, and nobody clears
    it. What was made before still works, so it is asked for a size that nobody has used.
    """
    try:
        torch.nn.functional.gelu(torch.zeros(next(_fresh_sizes)))
    except RuntimeError as problem:
        return is_out_of_memory(problem)
    return False
