"""Numbers on their way between the host and the device.

A GPU works on while they travel: they go through page-locked memory, which torch keeps and uses again, and nobody waits
for them before they are wanted.
https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

AHEAD = 2  # batches that a GPU is given while it works on the one before them


@dataclass(frozen=True)
class Made:
    """What a batch has come to: `values` on the device, which belong at `places` of `target` on the host."""

    target: np.ndarray
    places: np.ndarray | slice
    values: torch.Tensor


def on_device(numbers: np.ndarray, device: "str | torch.device") -> torch.Tensor:
    """A copy of `numbers` for the device; where that is the CPU, the same memory."""
    tensor = torch.from_numpy(numbers)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    locked = torch.empty(numbers.shape, dtype=tensor.dtype, pin_memory=True)
    # NumPy's copy: torch's would have all cores copy half a megabyte, and spin on them for what may come next, while
    # other threads tokenise and write.
    np.copyto(locked.numpy(), numbers)
    return locked.to(device, non_blocking=True)


class Flight:
    """Results of a batch on their way from a GPU to their places on the host."""

    def __init__(self, batch: Iterable[Made], device: str) -> None:
        self._copies = [Made(made.target, made.places, made.values.to("cpu", non_blocking=True)) for made in batch]
        self._arrival = torch.cuda.Event()
        self._arrival.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Until the GPU is through with the batch."""
        self._arrival.synchronize()

    def land(self) -> None:
        """Waits, and puts the results in their places. From any thread; a second call does nothing."""
        self.wait()
        for made in self._copies:
            made.target[made.places] = made.values.numpy()
        self._copies = []


class Transfer:
    """Takes results off a device. A GPU is given some batches ahead; on a CPU everything is in its place at once."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._flights: deque[Flight] = deque()  # that the GPU may not be through with

    def take(self, batch: Iterable[Made]) -> list[Flight]:
        """What is still to be landed. `batch` may compute its parts one after another."""
        if not self.device.startswith("cuda"):
            for made in batch:
                made.target[made.places] = made.values.cpu().numpy()
            return []
        self._flights.append(Flight(batch, self.device))
        if len(self._flights) > AHEAD:
            self._flights.popleft().wait()
        return [self._flights[-1]]
