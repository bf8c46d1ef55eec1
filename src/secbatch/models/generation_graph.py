"""One launch for a whole step of a model on a GPU."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Its attention reads keys and values where they lie, takes any mask, and needs no plan for each shape.
# https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Recorded:
    """A function of tensors, recorded as a CUDA graph and replayed: a CPU cannot launch hundreds of kernels so fast.

    Its inputs have the same shapes at every call. What else it reads and writes must stay where it is in memory, and
    must not depend on how often it is called. The output is overwritten by the next call.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        """Raises what `function` raises; the current stream is then the one that it was."""
        self._inputs = [tensor.clone() for tensor in inputs]
        device = inputs[0].device
        with torch.cuda.device(device), sdpa_kernel(ATTENTION):
            current, side = torch.cuda.current_stream(), _side_stream(device)
            side.wait_stream(current)
            with torch.cuda.stream(side):  # libraries set themselves up at their first calls, which cannot be recorded
                for _ in range(2):
                    function(*self._inputs)
            current.wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # What other threads do on the GPU meanwhile is no part of this. A capture that fails can leave its own
            # stream behind as the current one; the outer block puts it right.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"),
            ):
                self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._output


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One a device: cuBLAS keeps a workspace of its own for each stream that it has met."""
    return torch.cuda.Stream(device)
