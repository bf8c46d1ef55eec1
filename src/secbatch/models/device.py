"""Where the numbers are computed, and in which precision."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from secbatch.errors import JobError, SecbatchError
from secbatch.models.threads import FORKED, forked_from_threads, settle_threads

if TYPE_CHECKING:
    import torch


_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?", re.ASCII)
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"})  # what native/module.c asks for


@dataclass(frozen=True)
class Compute:
    """A device and a number format, settled once for a run."""

    device: str  # torch device string: "cpu", "cuda:0"
    dtype: str  # "float32" or "bfloat16"
    description: str  # for people: "CPU (2 threads)"
    notices: tuple[str, ...] = ()  # what a user should know about the choice
    compiled_attention: bool = False  # whether models/native runs there
    obstacle: str = ""  # why it does not on a processor that could run it
    memory: int = 0  # bytes that a GPU has; 0 for a CPU

    @property
    def summary(self) -> str:
        """For people who look for what makes a run slow."""
        return f"{self.description}, compiled attention" if self.compiled_attention else self.description

    def remarks_on_attention(self, widths: Iterable[int | None]) -> tuple[str, ...]:
        """What a user should know of a loaded model that would go through compiled attention, and cannot.

        `widths`: of its heads where attention is of that kind, None where it is another.
        """
        from secbatch.models import kernel_refusals, native

        on_gpu = self.device.startswith("cuda")
        obstacle = kernel_refusals.obstacle() if on_gpu else self.obstacle
        slower = obstacle and any(width is not None and (on_gpu or width <= native.WIDEST) for width in widths)
        return (obstacle,) if slower else ()

    @property
    def torch_dtype(self) -> "torch.dtype":
        import torch

        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


def choose(device: str = "auto", precision: str = "auto") -> Compute:
    """Settles `device` (auto, cpu, cuda, cuda:N) and `precision` (auto, float32, bfloat16).

    `auto` precision is bfloat16 where the hardware multiplies it (CUDA from Ampere on, CPUs with AMX-BF16),
    float32 elsewhere. On CUDA, float32 is strict: TF32 is switched off for the process. On a CPU, torch's threads are
    settled (see `settle_threads`).

    Raises SecbatchError when the device asked for is not there, JobError for what names none.
    """
    if not _DEVICE.fullmatch(device):
        raise JobError(f"device: '{device}' is none; it must be auto, cpu, cuda or cuda:1 (or another number)")
    import torch

    from secbatch.models import native

    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return _choose_cuda("cuda" if device == "auto" else device, precision)
    notices: tuple[str, ...] = ()
    dtype = precision
    if precision == "auto":
        dtype = "bfloat16" if cpu_has_amx_bf16() else "float32"
    elif precision == "bfloat16" and not (cpu_has_amx_bf16() or "avx512_bf16" in _cpu_flags()):
        notices = (
            "this CPU has no bfloat16 arithmetic (AMX or AVX512-BF16), so precision: bfloat16 is emulated"
            " and slow;"
            " precision: float32 is faster here",
        )
    if forked_from_threads():
        notices += (FORKED,)
    threads, compiled = settle_threads(), native.runs(torch.device("cpu"), torch.float32, native.WIDEST)
    obstacle = native.obstacle() if not compiled and _cpu_flags() >= _AVX512 else ""
    return Compute("cpu", dtype, f"CPU ({threads} thread{'s' if threads != 1 else ''})", notices, compiled, obstacle)


def _choose_cuda(device: str, precision: str) -> Compute:
    import torch

    if not torch.cuda.is_available():
        raise SecbatchError(
            f"device: {device} was asked for, but torch {torch.__version__} sees no CUDA GPU here;"
            " use device: cpu, or install a CUDA build of torch and check `nvidia-smi`"
        )
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise SecbatchError(
            f"device: {device} was asked for, but this machine has {torch.cuda.device_count()} CUDA GPU(s),"
            f" cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    native = multiplies_bfloat16(torch.device("cuda", index))
    notices: tuple[str, ...] = ()
    dtype = precision
    if precision == "auto":
        dtype = "bfloat16" if native else "float32"
    elif precision == "bfloat16" and not native:
        notices = ("this GPU has no bfloat16 arithmetic, so precision: bfloat16 is emulated and slow",)
    if dtype == "float32":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
    return Compute(f"cuda:{index}", dtype, f"{name} (cuda:{index})", notices, memory=memory)


def multiplies_bfloat16(gpu: "torch.device") -> bool:
    """Whether a GPU has matrix units for bfloat16: Ampere (compute capability 8) is the first generation with them."""
    import torch

    return torch.cuda.get_device_capability(gpu) >= (8, 0)


@cache
def _cpu_flags() -> frozenset[str]:
    """The instruction sets that Linux reports for the first core; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def faster_precision(compute: Compute) -> tuple[str, ...]:
    """What a user should know whose `auto` became float32 on a CPU that multiplies bfloat16 without AMX.

    `auto` leaves it: AMX gains many times as much speed, and this does for the same loss of digits.
    """
    if compute.device != "cpu" or compute.dtype != "float32" or "avx512_bf16" not in _cpu_flags():
        return ()
    return (
        "precision: bfloat16 is up to twice as fast on this CPU (it has AVX512-BF16); results differ a little from"
        " float32's, and rows that are done are computed again",
    )


def cpu_has_amx_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 tiles (Intel AMX) and the system lets us."""
    import torch

    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    if supported is not None and not supported():
        return False
    return "amx_bf16" in _cpu_flags()
