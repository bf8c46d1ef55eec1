"""What a lack of memory leaves behind."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secbatch.errors import SecbatchError
from secbatch.models import encoder_bert, linear, masked_lm_head_packed
from secbatch.models.device import choose
from secbatch.models.encoder import MaskedLM
from secbatch.models.load import load_model
from secbatch.models.memory_patience import MemoryPatience, Next
from secbatch.models.out_of_memory import is_out_of_memory, onednn_is_stuck
from secbatch.models.resolved import ResolvedModel


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is limited as on Linux")
def test_onednn_that_has_once_had_no_memory_ends_the_run_and_rejects_nobody() -> None:
    import resource

    texts = [torch.zeros(height, 8) for height in range(500, 510)]
    found: list[object] = []

    def work() -> None:  # on a thread of its own, as what is left behind is the thread's
        torch.set_num_threads(1)  # OpenMP ends the process, with exit code 1, where it gets no memory for a thread
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 16), before[1]))
        try:
            for text in texts:
                torch.nn.functional.gelu(text)
        except RuntimeError as problem:
            found.append(problem)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        try:
            found.append(MemoryPatience("cpu").after_failure((1, 1), alone=True, last=False))
            patience = MemoryPatience("cpu", most=0)
            patience.after_failure((1, 1), alone=True, last=True)
        except SecbatchError as problem:
            found.append(str(problem))

    before, threads = resource.getrlimit(resource.RLIMIT_AS), torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(threads)
    assert not onednn_is_stuck()
    if not found or not isinstance(found[0], RuntimeError):
        pytest.skip("this build of torch computes a GELU without oneDNN")
    assert is_out_of_memory(found[0])
    assert found[1] is Next.LATER
    assert "oneDNN" in str(found[2]) and "run the same command again" in str(found[2])


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
