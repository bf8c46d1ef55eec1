"""The choice of device and precision."""

import pytest
import torch

from secbatch.errors import SecbatchError
from secbatch.models import device
from secbatch.models.device import choose


def test_the_cpu_is_described_with_its_threads() -> None:
    compute = choose("cpu", "float32")
    assert (compute.device, compute.dtype, compute.torch_dtype) == ("cpu", "float32", torch.float32)
    assert compute.description.startswith("CPU (") and "thread" in compute.description
    assert compute.notices == ()


@pytest.mark.parametrize(("amx", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch, amx: bool, wanted: str) -> None:
    monkeypatch.setattr(device, "cpu_has_amx_bf16", lambda: amx)
    assert choose("cpu", "auto").dtype == wanted
    assert choose("cpu", "float32").dtype == "float32"


def test_bfloat16_without_hardware_is_allowed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_has_amx_bf16", lambda: False)
    monkeypatch.setattr(device, "_cpu_flags", frozenset)
    compute = choose("cpu", "bfloat16")
    assert compute.torch_dtype == torch.bfloat16
    assert "float32 is faster here" in compute.notices[0]


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SecbatchError, match=r"device: cuda:1 was asked for.*use device: cpu"):
        choose("cuda:1")
    assert choose("auto").device == "cpu"


def test_a_gpu_beyond_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SecbatchError, match="has 1 CUDA GPU"):
        choose("cuda:3")


def test_float32_on_a_gpu_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        assert choose("cuda", "auto").dtype == "bfloat16"
        assert choose("cuda", "float32").description == "a GPU (cuda:0)"
        assert not any(backend.allow_tf32 for backend in backends)
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
