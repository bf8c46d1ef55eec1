"""What a lack of memory leaves behind."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secbatch.models import encoder_bert, linear, masked_lm_head_packed
from secbatch.models.device import choose
from secbatch.models.encoder import MaskedLM
from secbatch.models.load import load_model
from secbatch.models.memory_patience import Next
from secbatch.models.resolved import ResolvedModel


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is limited as on Linux")
def test_onednn_that_has_once_had_no_memory_ends_the_run_and_rejects_nobody() -> None:
    # In a process of its own: what an earlier test has left free would be memory enough.
    trial = Path(__file__).with_name("onednn_without_memory.py")
    ended = subprocess.run([sys.executable, trial], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    if found["failed"] is None:
        pytest.skip("this build of torch computes a GELU without oneDNN")
    assert found["lack"] and not found["stuck_elsewhere"]
    assert found["next"] == Next.LATER.name
    assert "oneDNN" in found["said"] and "run the same command again" in found["said"]


@pytest.mark.parametrize("amid", ["its layers", "its head", "its products"])
def test_a_lack_of_memory_while_a_model_is_laid_out_does_not_decide_for_a_slower_way(
    tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch, amid: str
) -> None:
    def lacking(*arguments: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("no memory for a moment")

    compute = choose("cpu", "float32")
    loaded = load_model(tiny("roberta"), "masked-lm", compute)
    linear.has_blocked_layers.cache_clear()
    known = linear.has_blocked_layers(torch.float32)
    if not known:
        pytest.skip("this build of torch has no blocked linear layers")
    place, name = {
        "its layers": (encoder_bert.PackedBert, "__init__"),
        "its head": (masked_lm_head_packed.PackedMaskedLMHead, "__init__"),
        "its products": (torch.ops.mkldnn, "_reorder_linear_weight"),
    }[amid]
    if amid == "its products":
        linear.has_blocked_layers.cache_clear()
    with monkeypatch.context() as short, pytest.raises(torch.OutOfMemoryError):
        short.setattr(place, name, lacking)
        MaskedLM(loaded, 0, compute)
    assert linear.has_blocked_layers(torch.float32) == known
    lm = MaskedLM(loaded, 0, compute)
    assert lm.packed and lm.batch_free == known
