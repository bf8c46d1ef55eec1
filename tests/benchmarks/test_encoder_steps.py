"""Steps of the encoders' path are taken back where they are taken: on a CPU and on a GPU."""

import importlib
from pathlib import Path

import pytest
import torch

from secbatch.models import native, packed_attention, sum_norm
from secbatch.models.packed import Norm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("gpu", [False, True])
def test_each_step_has_what_those_before_it_have_and_no_more(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    steps = importlib.import_module("encoder_steps")
    monkeypatch.setattr(native, "runs", lambda *_: not gpu)
    monkeypatch.setattr(sum_norm, "_kernel", lambda *_: native.norm_of_sum if gpu else None)
    monkeypatch.setattr(packed_attention, "short_attention", lambda *_: gpu)
    monkeypatch.setattr(packed_attention, "has_flash_attention", lambda *_: gpu)
    norm, there = Norm(torch.ones(4), torch.zeros(4), 1e-5), (torch.device("cpu"), torch.float32, 4)
    for number, (_, changes) in enumerate(steps.STEPS[1:], 1):  # the first is the model's own forward
        with steps.taken_back(changes):
            attention = (
                native.runs(*there),
                packed_attention.short_attention(*there, 9),
                packed_attention.has_flash_attention(*there),
            )
            assert norm.adds is (number > 7)
            assert any(attention) is (number > 6)
