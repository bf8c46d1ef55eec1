"""Attention in native code: every length and width that it takes, in whatever company."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from secbatch.models import packed_attention, packed_attention_native
from secbatch.models.packed import Block
from secbatch.models.packed_attention_native import LONGEST, attend, is_native

CPU = torch.device("cpu")
runs = pytest.mark.skipif(not is_native(CPU, torch.float32, 64), reason="no AVX-512, or no C compiler at installation")
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def formula(qkv: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """[L, 3, heads, head_dim] of one sequence to [L, heads, head_dim], float64."""
    query, key, value = qkv.double().permute(1, 2, 0, 3)
    scores = query @ key.transpose(1, 2) / qkv.shape[-1] ** 0.5
    if window is not None:
        places = torch.arange(len(qkv))
        scores = scores.masked_fill((places[:, None] - places).abs() > window, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1)


def bounds_of(lengths: list[int], first: int = 0) -> torch.Tensor:
    return torch.from_numpy((first + np.cumsum([0, *lengths])).astype(np.int32))


def numbers(tokens: int, heads: int, dim: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, 3, heads, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_it_is_there_where_it_can_be() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if not (shutil.which("cc") and "avx512bw" in flags and "avx512vl" in flags):
        pytest.skip("no AVX-512 or no C compiler")
    assert is_native(CPU, torch.float32, 64) and is_native(CPU, torch.bfloat16, 32)


@runs
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("window", [None, 0, 1, 7, 64])
@pytest.mark.parametrize(("heads", "dim"), [(1, 16), (2, 32), (3, 48), (2, 64), (1, 80), (2, 128)])
def test_every_length_gives_what_the_formula_gives(
    dtype: torch.dtype, window: int | None, heads: int, dim: int
) -> None:
    lengths = [LONGEST, 300, 257, 131, *range(100, 0, -1)]
    bounds = bounds_of(lengths)
    qkv = numbers(int(bounds[-1]), heads, dim, dtype)
    got = attend(qkv, bounds, window)
    assert got.dtype == dtype
    for first, end in pairwise(bounds.tolist()):
        wanted = formula(qkv[first:end], window)
        assert (got[first:end].double() - wanted).abs().max() < LIMITS[dtype], end - first


@runs
@pytest.mark.parametrize("dtype", LIMITS)
def test_bfloat16_is_rounded_once(dtype: torch.dtype) -> None:
    bounds = bounds_of([40, 27, 5])
    qkv = numbers(72, 12, 64, torch.bfloat16)
    assert torch.equal(attend(qkv, bounds), attend(qkv.float(), bounds).bfloat16())


@runs
def test_a_sequence_has_the_same_bits_wherever_it_lies_and_whoever_computes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [70, 33, 33, 16, 5, 1]
    bounds = bounds_of(lengths, first=3)
    qkv = numbers(200, 12, 64, torch.float32)
    together = attend(qkv, bounds)
    for first, end in pairwise(bounds.tolist()):
        assert torch.equal(attend(qkv[first:end].clone(), bounds_of([end - first])), together[first:end])
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(attend(qkv, bounds)[3:161], together[3:161])


@runs
def test_tokens_of_no_sequence_are_not_written() -> None:
    """The memory before and behind, too: a result of many, all of them looked at."""
    qkv = numbers(64, 2, 64, torch.float32)
    outs = []

    def marked(*shape: int) -> torch.Tensor:
        outs.append(torch.full(shape, 7.0))
        return outs[-1]

    class Marked(torch.Tensor):
        new_empty = staticmethod(marked)

    attend(qkv.as_subclass(Marked), bounds_of([9, 4], first=20))
    (out,) = outs
    assert (out[:20] == 7).all() and (out[33:] == 7).all() and (out[20:33] != 7).all()


@runs
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_sequence_without_numbers_spoils_no_other_and_is_told(broken: float, part: int) -> None:
    bounds = bounds_of([27, 27, 18, 5])
    qkv = numbers(77, 2, 64, torch.float32)
    wanted = attend(qkv, bounds)
    qkv[30, part, 1, 5] = broken
    got = attend(qkv, bounds)
    same = torch.ones(77, dtype=torch.bool)
    same[27:54] = False
    assert torch.equal(got[same], wanted[same])
    assert torch.equal(got[27:54, 0], wanted[27:54, 0])  # another head
    expected = formula(qkv[27:54])[:, 1]
    assert torch.equal(got[27:54, 1].isnan(), expected.isnan())


@runs
def test_large_scores_do_not_overflow() -> None:
    qkv = numbers(40, 1, 64, torch.float32) * 1e3
    got = attend(qkv, bounds_of([40]))
    assert (got.double() - formula(qkv)).abs().max() < 1e-2


@runs
def test_torch_keeps_its_subnormal_numbers() -> None:
    attend(numbers(2000, 2, 64, torch.float32) * 30, bounds_of([20] * 100))
    small = torch.full((1 << 20,), 1e-39)  # enough for all threads
    assert (small * 1.5 > 1e-39).all()


@runs
@pytest.mark.parametrize(
    "change",
    [
        lambda qkv, bounds: (qkv.double(), bounds),
        lambda qkv, bounds: (qkv[:, :2], bounds),
        lambda qkv, bounds: (qkv[..., :8].contiguous(), bounds),
        lambda qkv, bounds: (qkv.transpose(0, 2), bounds),
        lambda qkv, bounds: (qkv[:-1], bounds),
        lambda qkv, bounds: (qkv, bounds.long()),
        lambda qkv, bounds: (qkv, bounds - 1),
        lambda qkv, bounds: (qkv, bounds.flip(0)),
        lambda qkv, bounds: (qkv, bounds[:1]),
        lambda qkv, bounds: (qkv, torch.tensor([0, LONGEST + 1], dtype=torch.int32)),
    ],
)
def test_what_it_does_not_take_is_refused(
    change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    qkv, bounds = numbers(LONGEST + 1, 3, 64, torch.float32), bounds_of([500, 12, 1])
    with pytest.raises(ValueError):
        attend(*change(qkv, bounds))


def test_without_it_attention_goes_torchs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = numbers(64, 2, 64, torch.float32)
    block = Block(qkv, qkv, None, 54, ((0, 2, 27),), bounds_of([27, 27]), 27)
    got = packed_attention.attend(qkv, block)
    is_native.cache_clear()
    monkeypatch.setattr(packed_attention_native, "native", None)
    try:
        assert not is_native(CPU, torch.float32, 64)
        other = packed_attention.attend(qkv, block)
    finally:
        monkeypatch.undo()
        is_native.cache_clear()
    assert torch.allclose(got, other, atol=2e-6, rtol=0)
    assert not got[54:].any() and not other[54:].any()
