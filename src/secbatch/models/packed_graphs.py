"""A packed encoder's layers as one launch on a GPU.

Some 150 kernels make up a batch. Launched one by one, each of them waits for Python's lock, which other threads want,
too, to read, tokenise and write; recorded as a CUDA graph they are one call.
"""

from collections.abc import Callable

import torch

from secbatch.models.batch_runner import out_of_memory
from secbatch.models.packed import Block

MOST = 32  # graphs; other shapes are launched kernel by kernel
Layers = Callable[[Block], tuple[torch.Tensor, torch.Tensor]]
Shape = tuple[int, int, int]  # tokens, sequences, and what none of these is longer than


Replayed = Callable[..., torch.Tensor]
Record = Callable[[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]], Replayed]


class LayerGraphs:
    """Layers by the shape of a block, which is recorded when it comes for the second time.

    Not for blocks with token types. What a call returns is overwritten by the next one, on the same stream.
    """

    def __init__(self, layers: Layers, record: Record) -> None:
        """`layers`: a block to two tensors [T, hidden]. `record(function, inputs)` makes what does it again."""
        self._layers, self._record = layers, record
        self._graphs: dict[Shape, Replayed] = {}
        self._met: set[Shape] = set()
        self._most = MOST
        self._results: torch.Tensor | None = None  # [2, T, hidden] of the largest block: all graphs write there

    def __call__(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        assert block.bounds is not None
        shape = len(block.ids), len(block.bounds), block.longest
        if shape not in self._graphs:
            if shape not in self._met or len(self._graphs) >= self._most:
                self._met.add(shape)
                return self._layers(block)
            try:
                self._graphs[shape] = self._recorded(block)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                self._most = 0  # layers that ask the device for something on their way: no graph can hold that
                return self._layers(block)
        attended, x = self._graphs[shape](block.ids, block.positions, block.bounds)
        return attended, x

    def _recorded(self, block: Block) -> Replayed:
        tokens, longest = len(block.ids), block.longest
        if self._results is None or self._results.shape[1] < tokens:
            if self._graphs:  # they write into the tensor that is too small
                self._graphs.clear()
            some = self._layers(block)[0]
            self._results = some.new_empty(2, *some.shape)
        results = self._results[:, :tokens]

        def run(ids: torch.Tensor, positions: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
            again = Block(ids, positions, None, tokens, (), bounds, longest)
            for result, made in zip(results, self._layers(again), strict=True):
                result.copy_(made)
            return results

        assert block.bounds is not None
        return self._record(run, (block.ids, block.positions, block.bounds))
