"""Whether a GPU adds up a training's gradients in the same order each time, so that the same steps give the same bits.

https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
"""

from collections.abc import Callable

import torch

from secbatch.models.out_of_memory import is_out_of_memory

NO_FIXED_ORDER = (
    "some sums of this model's gradients have no fixed order on a GPU: a training that is stopped and goes on ends with"
    " nearly the same weights, and not with the same bits"
)


def fixed_order(loss: Callable[[], torch.Tensor]) -> bool:
    """Demands a fixed order of all operations of the process, unless the gradients of `loss()` cannot be had with one.

    Where torch only warns of those that have none, its attention's gradients do without theirs, too.
    """
    torch.use_deterministic_algorithms(True)
    try:
        loss().backward()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        torch.use_deterministic_algorithms(True, warn_only=True)
        return False
    return True
