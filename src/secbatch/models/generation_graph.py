"""One launch for a whole step of a model on a GPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Recorded:
    """A function of tensors, recorded as a CUDA graph and replayed: a CPU cannot launch hundreds of kernels so fast.

    Its inputs have the same shapes at every call. What else it reads and writes must stay where it is in memory, and
    must not depend on how often it is called. The output is overwritten by the next call.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        warm = torch.cuda.Stream()
        warm.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm):  # libraries set themselves up at their first calls, which cannot be recorded
            for _ in range(2):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(warm)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._output
