"""A GPU without one: tensors in the host's memory that pass for a GPU's, and refuse what those would refuse.

Two modes of torch see each call: `_Calls` what Python asks of a tensor (its device, its numbers), `_Operators` what is
computed. Which tensors are the GPU's is known by their storages, so that views and writes in place need no thought. It
raises where a GPU would: operands of two devices, numbers read without a copy, an index that leads nowhere (after which
a GPU computes nothing any more), a wait while a graph is recorded. It notes each wait for the GPU and the line that
waits, and what travels without a wait is garbage until somebody waits for it.

What it does not know: time, streams beside each other, a kernel's own arithmetic. Those need a GPU (tests/cuda).
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HOST = torch.device("cpu")
PRODUCT = f"{Path(__file__).parents[1] / 'src' / 'secbatch'}/"
GETTERS = {getattr(torch.Tensor, name).__get__: name for name in ("device", "is_cuda", "is_cpu")}
# What tells the host a number, and so waits. The host's own tensors give them away without an operator.
ASKING = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "allclose", "is_nonzero"}
# Operators whose results are as large as the numbers say; boolean masks as indices are so, too.
WAITING = {"nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
# Operands that a kernel takes by address: a number on the host is none.
NO_HOST_NUMBERS = {"cat", "stack", "gather", "scatter", "index_select", "embedding", "mm", "bmm", "addmm", "copy"}
LEADING = ("embedding", "gather", "index", "index_copy_", "index_put_", "index_select", "scatter", "take")


class Gpu:
    """What there is on it, what was asked of it, and what it has not delivered yet."""

    def __init__(self, count: int = 1) -> None:
        self.count, self.current = count, 0
        self.waits: Counter[str] = Counter()  # by line
        self.launches = self.allocations = 0
        self.lost = False
        self.before_allocation: Callable[[int], None] = lambda number: None  # may raise for the nth allocation
        self.recording: list[tuple[Any, ...]] | None = None
        self._there: dict[int, tuple[StorageWeakRef, torch.device, int]] = {}
        self._pinned: dict[int, StorageWeakRef] = {}
        self._arriving: list[tuple[int, Tensor, Tensor]] = []
        self._mutex = threading.RLock()

    def device_of(self, tensor: Tensor) -> torch.device:
        with torch._C.DisableTorchFunction():
            if tensor.is_mkldnn or tensor.layout != torch.strided:
                return tensor.device
            there = self._there.get(tensor.untyped_storage()._cdata)
            return tensor.device if there is None else there[1]

    def holds(self, tensor: Tensor) -> bool:
        return self.device_of(tensor).type == "cuda"

    def take(self, tensor: Tensor, device: torch.device) -> Tensor:
        """A tensor's memory is the GPU's from now on. Raises what `before_allocation` does."""
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            if tensor.device.type != "cpu" or storage._cdata in self._there:
                return tensor
            self.allocations += 1
            self.before_allocation(self.allocations)
            with self._mutex:
                if len(self._there) % 4096 == 4095:
                    self._there = {key: one for key, one in self._there.items() if not one[0].expired()}
                # a weak reference keeps the address from being given away
                self._there[storage._cdata] = StorageWeakRef(storage), device, storage.nbytes()
        return tensor

    def bytes_in_use(self) -> int:
        return sum(size for reference, _, size in list(self._there.values()) if not reference.expired())

    def pin(self, tensor: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            self._pinned[storage._cdata] = StorageWeakRef(storage)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self._pinned

    def settled(self, device: "torch.device | str | None") -> torch.device:
        device = torch.device("cuda" if device is None else device)
        return torch.device("cuda", self.current) if device.type == "cuda" and device.index is None else device

    def wait(self, what: str) -> None:
        """The host waits until everything is through."""
        if self.recording is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing ({what})")
        self.waits[f"{_line()} {what}"] += 1
        self.arrive(self.launches)

    def arrive(self, until: int) -> None:
        with self._mutex:
            due = [one for one in self._arriving if one[0] <= until]
            self._arriving = [one for one in self._arriving if one[0] > until]
        with torch._C.DisableTorchFunction(), _unseen(), torch.inference_mode():
            for _, host, values in due:
                host.copy_(values)

    def to_device(self, tensor: Tensor, device: torch.device, dtype: Any, without_wait: bool) -> Tensor:
        if not (without_wait and self.is_pinned(tensor)):
            self.wait("a copy to the GPU")
        self.launches += 1
        with torch._C.DisableTorchFunction(), _unseen():
            copy = tensor.to(dtype, copy=True)
        return self.take(copy, device)

    def to_host(self, tensor: Tensor, dtype: Any, without_wait: bool) -> Tensor:
        with torch._C.DisableTorchFunction(), _unseen():
            values = tensor.to(dtype, copy=True)
            if not without_wait:
                self.wait("a copy to the host")
                return values
            self.launches += 1
            host = torch.empty_like(values)
            host.untyped_storage().fill_(0xFF)  # NaN, -1
        with self._mutex:
            self._arriving.append((self.launches, host, values))
        return self.pin(host)


def _line() -> str:
    """The line of the product at work, and the one in another package that it called."""
    frame, inner = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PRODUCT):
            return f"{name.removeprefix(PRODUCT)}:{frame.f_lineno}{inner}"
        if not inner and "site-packages/transformers" in name:
            inner = f" ({name.partition('transformers/')[2]}:{frame.f_lineno})"
        frame = frame.f_back  # type: ignore[assignment]
    return f"elsewhere{inner}"


@contextmanager
def _unseen() -> Iterator[None]:
    with torch.utils._python_dispatch._disable_current_modes():
        yield


class _Calls(TorchFunctionMode):
    """What Python asks of tensors."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs, name = self.gpu, kwargs or {}, getattr(func, "__name__", "")
        if name == "__get__" and func in GETTERS:
            device = gpu.device_of(args[0])
            return device if GETTERS[func] == "device" else device.type == GETTERS[func].removeprefix("is_")
        if name in ("to", "cpu", "cuda"):
            return self._moved(name, func, args, kwargs)
        if name == "pin_memory":
            assert not gpu.holds(args[0]), "only the host's memory can be pinned"
            return args[0] if gpu.is_pinned(args[0]) else gpu.pin(args[0].clone())
        if kwargs.get("pin_memory"):
            return gpu.pin(func(*args, **kwargs | {"pin_memory": False}))
        if name == "is_pinned":
            return gpu.is_pinned(args[0])
        if name in ("numpy", "__array__") and gpu.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name in ASKING and gpu.holds(args[0]):
            gpu.wait(name)
        if name == "__getitem__" and isinstance(args[1], Tensor) and not args[1].dim() and gpu.holds(args[1]):
            gpu.wait("a place from the GPU")
        asked = next((one for one in tree_leaves((args, kwargs)) if _is_gpu(one)), None)
        if asked is None or name in ("device", "_parse_to"):
            return func(*args, **kwargs)
        args, kwargs = tree_map(lambda one: HOST if _is_gpu(one) else one, (args, kwargs))
        if name in ("tensor", "as_tensor"):
            gpu.wait(f"torch.{name}")
        made = func(*args, **kwargs)
        return tree_map(lambda one: gpu.take(one, gpu.settled(asked)) if isinstance(one, Tensor) else one, made)

    def _moved(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        gpu, tensor = self.gpu, args[0]
        here = gpu.device_of(tensor)
        if name == "to":
            kwargs = dict(kwargs)
            copies = kwargs.pop("copy", False)
            if len(args) > 1 and isinstance(args[1], Tensor):
                args = (tensor, gpu.device_of(args[1]), args[1].dtype, *args[2:])
            device, dtype, without_wait, _ = torch._C._nn._parse_to(*args[1:], **kwargs)
            there = here if device is None else gpu.settled(device)
            dtype = dtype or tensor.dtype
        else:
            copies, dtype, without_wait = False, tensor.dtype, kwargs.get("non_blocking", False)
            there = HOST if name == "cpu" else gpu.settled(next(iter((*args[1:], kwargs.get("device")))))
        if here == there or "meta" in (here.type, there.type):
            with torch._C.DisableTorchFunction():
                return tensor.to(dtype, copy=copies) if here == there else func(*args, **kwargs)
        if there.type == "cuda":
            return gpu.to_device(tensor, there, dtype, without_wait)
        return gpu.to_host(tensor, dtype, without_wait)


def _is_gpu(one: Any) -> bool:
    return isinstance(one, str | torch.device) and str(one).startswith("cuda")


class _Operators(TorchDispatchMode):
    """What is computed."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        devices = {gpu.device_of(one) for one in tensors} - {torch.device("meta")}
        there = next((device for device in devices if device.type == "cuda"), None)
        if there is None:
            return func(*args, **kwargs)
        if gpu.lost:
            raise RuntimeError("CUDA error: device-side assert triggered")
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name == "copy_" and len(devices) > 1:
            return self._copied(*args, **kwargs)
        self._check(name, args, tensors, there)
        gpu.launches += 1
        try:
            made = func(*args, **kwargs)
        except (IndexError, RuntimeError) as problem:
            if name.startswith(LEADING) and any(sign in str(problem) for sign in ("out of range", "out of bounds")):
                gpu.lost = True
                raise RuntimeError("CUDA error: device-side assert triggered") from problem
            raise
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                gpu.take(one, there)
        if gpu.recording is not None:
            gpu.recording.append((func, args, kwargs, made))
        return made

    def _check(self, name: str, args: Any, tensors: list[Tensor], there: torch.device) -> None:
        gpu = self.gpu
        strangers = [one for one in tensors if gpu.device_of(one) not in (there, torch.device("meta"))]
        indexing = name in ("index", "index_put_", "index_put", "_index_put_impl_")
        if indexing:
            assert gpu.holds(args[0]), f"{name}: indices on the GPU of a tensor on the host"
            indices = [one for one in args[1] if one is not None]
            for one in indices:
                if not gpu.holds(one):
                    gpu.wait("an index from the host")
            if any(one.dtype in (torch.bool, torch.uint8) for one in indices):
                gpu.wait("a mask as an index")
            strangers = [one for one in strangers if not any(one is index for index in indices)]
        for one in strangers:
            if one.dim() or name in NO_HOST_NUMBERS:
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but {name} has {one.shape} elsewhere"
                )
        if name in WAITING:
            gpu.wait(name)

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        gpu = self.gpu
        host = source if gpu.holds(target) else target
        if not (non_blocking and gpu.is_pinned(host)):
            gpu.wait("copy_ between host and GPU")
        else:
            assert host is source, "nobody knows when the numbers are there"
        return target.copy_(source)


class Event:
    """Of torch.cuda, for one GPU's one queue."""

    _gpu: Gpu
    _at = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        self._at = self._gpu.launches

    def synchronize(self) -> None:
        self._gpu.arrive(self._at)

    def query(self) -> bool:
        return True


class Stream:
    """There is but one."""

    _gpu: Gpu

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, other: Any) -> None:
        pass

    def synchronize(self) -> None:
        self._gpu.wait("a stream")


class Graph:
    """Operators that run again on the same memory; recorded, they have not run."""

    _gpu: Gpu

    def __init__(self, *_: Any, **__: Any) -> None:
        self._operators: list[tuple[Any, ...]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        before = set(self._gpu._there)
        self._gpu.recording = []
        try:
            yield
            self._operators = self._gpu.recording
        finally:
            self._gpu.recording = None
        with _unseen(), torch._C.DisableTorchFunction():
            for *_, made in self._operators:
                for one in tree_leaves(made):
                    if isinstance(one, Tensor) and one.untyped_storage()._cdata not in before:
                        one.untyped_storage().fill_(0xFF)

    def replay(self) -> None:
        self._gpu.launches += 1
        with _unseen(), torch._C.DisableTorchFunction():
            for func, args, kwargs, made in self._operators:
                for kept, new in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(kept, Tensor) and kept.untyped_storage()._cdata != new.untyped_storage()._cdata:
                        kept.copy_(new)


@contextmanager
def pretended_gpu(count: int = 1) -> Iterator[Gpu]:
    """Inside, torch has so many GPUs, on threads that begin there as well."""
    gpu = Gpu(count)
    run = threading.Thread.run

    def with_modes(self: threading.Thread) -> None:
        with _Calls(gpu), _Operators(gpu):
            run(self)

    @contextmanager
    def current(device: Any) -> Iterator[None]:
        before, gpu.current = gpu.current, gpu.settled(device).index
        try:
            yield
        finally:
            gpu.current = before

    def of_this(kind: type) -> Any:  # a type as torch's, which others name in annotations
        return type(kind.__name__, (kind,), {"_gpu": gpu})

    stream, current_stream = of_this(Stream), of_this(Stream)()
    stand_ins: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: gpu.current,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=80 << 30),
        "get_device_name": lambda *_: "Pretended GPU",
        "device": current,
        "Stream": stream,
        "current_stream": lambda *_: current_stream,
        "stream": lambda *_: nullcontext(),
        "Event": of_this(Event),
        "CUDAGraph": of_this(Graph),
        "graph": lambda graph, **_: graph.recorded(),
        "is_current_stream_capturing": lambda: gpu.recording is not None,
        "synchronize": lambda *_: gpu.wait("synchronize"),
        "empty_cache": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: None,
        "manual_seed_all": lambda *_: None,
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch.object(torch.cuda, name, stand_in))
        # torch for GPUs asks its driver here; torch for CPUs knows none
        stack.enter_context(patch.object(torch.accelerator, "current_accelerator", lambda **_: None))
        stack.enter_context(patch.object(threading.Thread, "run", with_modes))
        stack.enter_context(_Calls(gpu))
        stack.enter_context(_Operators(gpu))
        yield gpu
