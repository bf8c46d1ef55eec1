"""Linear layers for inference.

On a CPU, oneDNN wants weights in a blocked layout and re-lays plain ones at every call; here that is done once.
What follows the product (a GELU, a residual sum) is computed while its result is still in the cache. These are
the operators that torch's own compiler uses for frozen weights.
"""

from functools import cache

import torch
import torch.nn.functional as F

from secbatch.models.out_of_memory import is_out_of_memory

LAYOUT_ROWS = 2048  # rows of a typical block, which the blocked layout is chosen for; any number works


class Linear:
    """x [T, in] to [T, out]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """`weight`: [out, in], `bias`: [out]."""
        self._bias = bias
        self._blocked = weight.device.type == "cpu" and has_blocked_layers(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, LAYOUT_ROWS) if self._blocked else weight

    @classmethod
    def of(cls, *modules: torch.nn.Linear) -> "Linear":
        """One layer that gives what `modules` give side by side: one matrix product instead of several."""
        if len(modules) == 1:
            return cls(modules[0].weight.detach(), _detached(modules[0].bias))
        bias = torch.cat([module.bias.detach() for module in modules]) if modules[0].bias is not None else None
        return cls(torch.cat([module.weight.detach() for module in modules]), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._blocked:
            return self._pointwise(x, "none", "")
        return F.linear(x, self.weight, self._bias)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """The exact GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415) of the product."""
        if self._blocked:
            return self._pointwise(x, "gelu", "none")
        return F.gelu(F.linear(x, self.weight, self._bias))

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The product and `residual` [T, out], added up."""
        if self._blocked:
            fused = torch.ops.mkldnn._linear_pointwise.binary
            total: torch.Tensor = fused(x, residual, self.weight, self._bias, "add")
            return total
        return F.linear(x, self.weight, self._bias).add_(residual)

    def _pointwise(self, x: torch.Tensor, function: str, algorithm: str) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self._bias, function, [], algorithm)
        return result


def _detached(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.detach()


@cache
def has_blocked_layers(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's fused layers for `dtype` on this CPU, and they give the right thing."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    x, weight, bias = (
        torch.linspace(-1.0, 1.0, count, dtype=dtype).view(shape)
        for count, shape in ((48, (3, 16)), (128, (8, 16)), (8, (8,)))
    )
    try:
        with torch.inference_mode():
            blocked = torch.ops.mkldnn._reorder_linear_weight(weight, LAYOUT_ROWS)
            got = torch.ops.mkldnn._linear_pointwise(x, blocked, bias, "gelu", [], "none")
            torch.ops.mkldnn._linear_pointwise.binary(x, got, blocked, bias, "add")
    except (AttributeError, RuntimeError) as error:  # another build, or a number format that it does not know
        if is_out_of_memory(error):  # which says nothing of either
            raise
        return False
    return bool(torch.allclose(got.float(), F.gelu(F.linear(x, weight, bias)).float(), atol=0.05))
