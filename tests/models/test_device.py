"""The choice of device and precision."""

from types import SimpleNamespace

import pytest
import torch

from secbatch.errors import JobError, SecbatchError
from secbatch.models import device, native
from secbatch.models.device import choose


def test_the_cpu_is_described_with_its_threads() -> None:
    compute = choose("cpu", "float32")
    assert (compute.device, compute.dtype, compute.torch_dtype) == ("cpu", "float32", torch.float32)
    assert compute.description.startswith("CPU (") and "thread" in compute.description
    assert compute.summary == compute.description + (", compiled attention" if compute.compiled_attention else "")


AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"})


@pytest.mark.parametrize(
    ("installed", "code", "flags", "told"),
    [
        (False, None, AVX512, "is not installed: get a C compiler and Python's headers"),
        (False, None, AVX512 - {"avx512bw"}, ""),  # nothing to be had there
        (True, None, AVX512, "compiled for another version of secbatch"),
        (True, SimpleNamespace(supported=lambda: False), AVX512, "torch's OpenMP threads were not found"),
        (True, SimpleNamespace(supported=lambda: True), AVX512, ""),
    ],
)
def test_it_is_said_where_attention_could_be_compiled_code_and_is_not(
    monkeypatch: pytest.MonkeyPatch, installed: bool, code: object, flags: frozenset[str], told: str
) -> None:
    monkeypatch.setattr(native, "installed", installed)
    monkeypatch.setattr(native, "_code", code)
    monkeypatch.setattr(device, "_cpu_flags", lambda: flags)
    native.runs.cache_clear()
    try:
        compute = choose("cpu", "float32")
    finally:
        native.runs.cache_clear()
    assert told in compute.obstacle and bool(told) == bool(compute.obstacle) and not compute.notices
    for widths, slower in (([], False), ([None], False), ([native.WIDEST + 1], False), ([None, 64], bool(told))):
        assert compute.remarks_on_attention(widths) == ((compute.obstacle,) if slower else ())
    assert compute.compiled_attention == bool(code and code.supported())  # type: ignore[attr-defined]


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


@pytest.mark.parametrize(
    ("flags", "amx", "precision", "told"),
    [
        ({"avx512_bf16"}, False, "auto", True),
        ({"avx512_bf16"}, False, "bfloat16", False),
        ({"avx512_bf16", "amx_bf16"}, True, "auto", False),
        (set(), False, "auto", False),
    ],
)
def test_where_bfloat16_is_faster_and_not_chosen(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], amx: bool, precision: str, told: bool
) -> None:
    monkeypatch.setattr(device, "_cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(device, "cpu_has_amx_bf16", lambda: amx)
    assert bool(device.faster_precision(choose("cpu", precision))) == told


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SecbatchError, match=r"device: cuda:1 was asked for.*use device: cpu"):
        choose("cuda:1")
    assert choose("auto").device == "cpu"


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:x", "cuda0", "", "cpu:0", "cpu\n"])
def test_what_is_no_device_is_not_taken_for_the_cpu(device: str) -> None:
    with pytest.raises(JobError, match="is none; it must be auto, cpu, cuda or cuda:1"):
        choose(device)


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
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=24 << 30))
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        assert choose("cuda", "auto").dtype == "bfloat16"
        assert choose("cuda", "auto").memory == 24 << 30
        assert choose("cuda", "float32").description == "a GPU (cuda:0)"
        assert not any(backend.allow_tf32 for backend in backends)
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
