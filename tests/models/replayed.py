"""A CUDA graph without a GPU: what a recording would refuse is refused, what it would not see is told."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Methods and operators that wait for the device, and those that bring something from the host.
ASKING = {"item", "tolist", "numpy", "cpu", "to", "__bool__", "__int__", "__float__", "__index__", "__array__"}
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::unique2", "aten::masked_select"}
FROM_HOST = {"aten::lift_fresh", "aten::lift_fresh_copy", "aten::lift"}


class Asked(TorchFunctionMode):
    """Refuses methods of a tensor that tell the host its numbers; a CPU gives them away without any operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        to_device = name == "to" and any(isinstance(leaf, str | torch.device) for leaf in tree_leaves((args, kwargs)))
        assert name not in ASKING or (name == "to" and not to_device), f"{name} cannot be recorded"
        return func(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):
    """The operators that run within it: their constants, the shapes they get, and where memory from outside lies."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, ...]] = []
        self.made: dict[int, Any] = {}  # storages made within; kept, so that no address comes twice
        self.outside: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        assert name not in WAITING | FROM_HOST, f"{name} cannot be recorded"
        seen: list[Any] = [func.name()]
        for leaf in tree_leaves((args, kwargs or {})):
            if not isinstance(leaf, Tensor) or leaf.is_mkldnn:  # weights in oneDNN's layout have no address
                seen.append(id(leaf) if isinstance(leaf, Tensor) else leaf)
                continue
            assert not (name in ("aten::index", "aten::index_put_") and leaf.dtype == torch.bool and leaf.ndim), (
                f"{name} with a mask cannot be recorded"
            )
            storage = leaf.untyped_storage()
            address = storage.data_ptr()
            if address not in self.made:
                self.outside[address] = storage
            seen.append((None if address in self.made else address, leaf.shape, leaf.stride(), leaf.storage_offset()))
        self.operators.append(tuple(seen))
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self.outside:
                self.made[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage()
        return out


class Replayed:
    """What `Recorded` does on a GPU: its own inputs, one output, the same operators on the same memory at each call."""

    made = 0

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        type(self).made += 1
        self.function, self.inputs = function, [tensor.clone() for tensor in inputs]
        for _ in range(2):  # to warm up
            function(*self.inputs)
        self.recording, output = self._run()
        self.output = output.new_empty(output.shape).fill_(float("nan"))  # what is recorded is not run

    def _run(self) -> tuple[Recording, Tensor]:
        with Asked(), Recording() as recording:
            output = self.function(*self.inputs)
        return recording, output

    def __call__(self, *inputs: Tensor) -> Tensor:
        for kept, given in zip(self.inputs, inputs, strict=True):
            assert (kept.shape, kept.dtype) == (given.shape, given.dtype)
            kept.copy_(given)
        recording, output = self._run()
        for one, other in zip(recording.operators, self.recording.operators, strict=True):
            assert one == other, f"recorded {other}, but it would now be {one}"
        return self.output.copy_(output)
