"""The number format that a training computes in."""

from contextlib import nullcontext
from typing import Any

import torch

from secbatch.models.device import Compute


def autocast(compute: Compute) -> Any:
    """A context in which products are taken in bfloat16, where that is what is computed in."""
    if compute.dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(compute.device.partition(":")[0], dtype=torch.bfloat16)
