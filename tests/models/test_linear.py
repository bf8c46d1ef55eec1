"""Fused layers against torch's own, with and without the blocked layout."""

import pytest
import torch
import torch.nn.functional as F

from secbatch.models import linear
from secbatch.models.linear import Linear


@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_products_gelus_and_residual_sums_are_those_of_torch(
    blocked: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not blocked:
        monkeypatch.setattr(linear, "has_blocked_layers", lambda dtype: False)
    torch.manual_seed(0)
    modules = [torch.nn.Linear(24, 40, bias=bias) for _ in range(3)]
    x = torch.randn(7, 24)
    with torch.inference_mode():
        one, fused = Linear.of(modules[0]), Linear.of(*modules)
        wanted = modules[0](x)
        residual = torch.randn(7, 40)
        assert torch.allclose(one(x), wanted, atol=1e-5)
        assert torch.allclose(one.gelu(x), F.gelu(wanted), atol=1e-5)
        assert torch.allclose(one.plus(x, residual.clone()), wanted + residual, atol=1e-5)
        assert torch.allclose(fused(x), torch.cat([module(x) for module in modules], dim=1), atol=1e-5)
