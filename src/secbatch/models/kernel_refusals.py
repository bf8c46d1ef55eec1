"""Why a kernel of our own does not run on a GPU: Triton compiles it on the machine where it is first wanted."""

from importlib import import_module
from subprocess import SubprocessError
from typing import Any

import torch

from secbatch.errors import cause
from secbatch.models.device import multiplies_bfloat16

_mendable: list[str] = []  # the first that a person can do something about; errors would hold a batch's memory


def module(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A module of kernels beside this one; None where none of them is for `dtype` on `device`.

    They are for half precision. On GPUs before those that multiply bfloat16 some take minutes to compile.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or not multiplies_bfloat16(device):
        return None
    try:
        return import_module(f"secbatch.models.{name}")
    except ImportError:  # no Triton: builds of torch for other systems come without it
        return None


def refusals() -> tuple[type[Exception], ...]:
    """What Triton, which is there, raises where a kernel cannot run: an older GPU, and the kinds that `note` keeps."""
    from triton import TritonError

    return (TritonError, RuntimeError, TypeError, ValueError, OSError, ImportError, AssertionError, SubprocessError)


def note(problem: Exception) -> None:
    """Keeps a refusal that is not the GPU's but the machine's.

    No folder to write in (OSError), or one from which no code may be run (ImportError); no C compiler (RuntimeError) or
    headers (SubprocessError); a driver that Triton does not find (AssertionError).
    """
    machines = isinstance(problem, OSError | ImportError | AssertionError | SubprocessError)
    if (machines or "C compiler" in str(problem)) and not _mendable:
        _mendable.append(cause(problem))


def obstacle() -> str:
    """What was kept, and how to mend it, as one sentence; empty where nothing was."""
    if not _mendable:
        return ""
    return (
        f"encoders and chat are slower, as Triton could not compile code for this GPU ({_mendable[0]}): it wants a C"
        " compiler, Python's headers and a folder to write in (TRITON_CACHE_DIR; docs/operations.md)"
    )
