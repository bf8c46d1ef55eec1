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

AHEAD = 2  # batches that a GPU has been given while results of the one before them are still to come


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
    return tensor.pin_memory().to(device, non_blocking=True)


class Landing:
    """Brings results to the host, where the device is a GPU some batches after they were asked for."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._waiting: deque[tuple[list[Made], torch.cuda.Event]] = deque()

    def take(self, batch: Iterable[Made]) -> None:
        """`batch` may compute its parts one after another: none is kept longer than its copy takes."""
        if not self._device.startswith("cuda"):
            for made in batch:
                made.target[made.places] = made.values.cpu().numpy()
            return
        copies = [Made(made.target, made.places, made.values.to("cpu", non_blocking=True)) for made in batch]
        here = torch.cuda.Event()
        here.record(torch.cuda.current_stream(self._device))
        self._waiting.append((copies, here))
        if len(self._waiting) > AHEAD:
            self._land()

    def land(self) -> None:
        """Everything that is still on its way."""
        while self._waiting:
            self._land()

    def _land(self) -> None:
        copies, here = self._waiting.popleft()
        here.synchronize()
        for made in copies:
            made.target[made.places] = made.values.numpy()
