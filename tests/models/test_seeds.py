"""Seeds of torch's chance."""

import traceback
from typing import Any

import pytest
import torch

from secbatch.models.seeds import seed_torch


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_draws_are_those_of_torch_and_no_stack_is_formatted(
    device: str | torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2**63 - 5)
    wanted = torch.rand(5)

    def format_stack(*_: Any) -> list[str]:
        raise AssertionError("it takes longer than a small step")

    monkeypatch.setattr(traceback, "format_stack", format_stack)
    seed_torch(2**63 - 5, device)
    assert torch.equal(torch.rand(5), wanted)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda:0")])
def test_those_of_gpus_are_seeded_too(device: str | torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    seed_torch(7, device)
    assert seeded == [7] and torch.initial_seed() == 7
