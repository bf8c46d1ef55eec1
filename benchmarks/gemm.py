"""The rate of matrix products that a device reaches, as a ceiling for what runs on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.models.linear import Linear, has_blocked_layers

ROWS, INNER, OUTER = 2048, 768, 3072
# A GPU is not filled by the rows that fill a CPU; it is measured with these as well, and the faster counts.
CUDA_ROWS = (ROWS, 32_768)


@dataclass
class GemmRate:
    """Floating-point operations a second of x [rows, 768] times [768, 3072], by the fastest way that torch has."""

    device: str
    dtype: torch.dtype
    bursts: list[float] = field(default_factory=list)  # the rate of each call of `measure`

    def __post_init__(self) -> None:
        weight = torch.randn(OUTER, INNER, dtype=self.dtype, device=self.device)
        bias = torch.randn(OUTER, dtype=self.dtype, device=self.device)
        self._ways: list[Callable[[torch.Tensor], torch.Tensor]] = [lambda x: F.linear(x, weight, bias)]
        if self.device == "cpu" and has_blocked_layers(self.dtype):
            self._ways.append(Linear(weight, bias))

    @torch.inference_mode()
    def measure(self, seconds: float = 0.3) -> float:
        """The better of all ways, each for so many seconds; a median of its products, so that a hiccup is none."""
        cuda = self.device.startswith("cuda")
        self.bursts.append(max(self._rate(way, rows, cuda, seconds) for way in self._ways for rows in self._rows(cuda)))
        return self.bursts[-1]

    @property
    def median(self) -> float:
        return float(np.median(self.bursts))

    @property
    def best(self) -> float:
        return max(self.bursts)

    def _rows(self, cuda: bool) -> tuple[int, ...]:
        return CUDA_ROWS if cuda else (ROWS,)

    def _rate(self, way: Callable[[torch.Tensor], torch.Tensor], rows: int, cuda: bool, seconds: float) -> float:
        x = torch.randn(rows, INNER, dtype=self.dtype, device=self.device)
        calls = 50 if cuda else 1  # a product on a GPU is shorter than waiting for it
        spent: list[float] = []
        end = time.perf_counter() + seconds
        for _ in range(3):
            way(x)
        while time.perf_counter() < end or len(spent) < 3:
            if cuda:
                torch.cuda.synchronize(self.device)
            begin = time.perf_counter()
            for _ in range(calls):
                way(x)
            if cuda:
                torch.cuda.synchronize(self.device)
            spent.append((time.perf_counter() - begin) / calls)
        return 2.0 * rows * INNER * OUTER / float(np.median(spent))
