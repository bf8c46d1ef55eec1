"""Products of a GPU in bfloat16 that hardly depend on how many rows they have."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def steady_products(device: str) -> Iterator[None]:
    """Inside, a GPU adds up in float32 the parts into which it cuts products of few rows. For the whole process.

    Added up in bfloat16, as cuBLAS may do otherwise, they make as much of a difference after twelve layers as what some
    models let in of their padding: for MPNet's shape 0.01 to 0.03 of the states' norm with 4 to 16 parts (emulated on
    a CPU). Batches of texts have too many rows to be cut.
    https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html
    """
    if not device.startswith("cuda"):
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    cuts = getattr(settings, "allow_bf16_reduced_precision_reduction_split_k", True)
    settings.allow_bf16_reduced_precision_reduction = False if cuts else (False, False)
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before if cuts else (before, False)
