"""Attention in native code: every length and width that it takes, in whatever company."""

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from secbatch.models import generation_attention, native, packed_attention
from secbatch.models.native import BIAS_WIDTH, LONGEST, attend_cache, attend_within, runs
from secbatch.models.packed import Block
from secbatch.models.packed_attention_groups import attend_by_groups
from tests.models.attention_formula import formula

CPU = torch.device("cpu")
here = pytest.mark.skipif(not runs(CPU, torch.float32, 64), reason="no AVX-512, or no C compiler at installation")
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def bounds_of(lengths: list[int], first: int = 0) -> torch.Tensor:
    return torch.from_numpy((first + np.cumsum([0, *lengths])).astype(np.int32))


def numbers(tokens: int, heads: int, dim: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, 3, heads, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_it_is_there_where_it_can_be() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if not (shutil.which("cc") and headers and "avx512bw" in flags and "avx512vl" in flags):
        pytest.skip("no AVX-512, no C compiler or no headers of Python")
    assert runs(CPU, torch.float32, 64) and runs(CPU, torch.bfloat16, 32)


@pytest.mark.parametrize(("interface", "called"), [(native._INTERFACE, True), (native._INTERFACE + 1, False)])
def test_code_that_another_installation_left_is_not_called(
    monkeypatch: pytest.MonkeyPatch, interface: int, called: bool
) -> None:
    left = SimpleNamespace(INTERFACE=interface)
    monkeypatch.setattr(native, "attention", left, raising=False)
    monkeypatch.setitem(sys.modules, "secbatch.models.native.attention", left)  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("another_native", native.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module._code is left) == called and module.installed


@here
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("window", [None, 0, 1, 7, 64])
@pytest.mark.parametrize(("heads", "dim"), [(1, 16), (2, 32), (3, 40), (2, 64), (1, 71), (1, 80), (2, 128), (2, 3)])
def test_every_length_gives_what_the_formula_gives(
    dtype: torch.dtype, window: int | None, heads: int, dim: int
) -> None:
    lengths = [LONGEST, 300, 257, 131, *range(100, 0, -1)]
    bounds = bounds_of(lengths)
    qkv = numbers(int(bounds[-1]), heads, dim, dtype)
    got = attend_within(qkv, bounds, window)
    assert got.dtype == dtype
    for first, end in pairwise(bounds.tolist()):
        wanted = formula(qkv[first:end], window)
        assert (got[first:end].double() - wanted).abs().max() < LIMITS[dtype], end - first


@pytest.mark.parametrize("dtype", LIMITS)
def test_scores_may_depend_on_how_far_apart_two_tokens_are(dtype: torch.dtype) -> None:
    """With and without native code."""
    lengths = [LONGEST, 131, 64, 27, 27, 16, 5, 1]
    bounds = bounds_of(lengths)
    qkv = numbers(int(bounds[-1]), 3, 16, dtype)
    bias = torch.randn(3, BIAS_WIDTH, generator=torch.Generator().manual_seed(1)) * 3
    groups = tuple((int(first), 1, length) for first, length in zip(bounds, lengths, strict=False))
    ways = [attend_by_groups(qkv, groups, None, True, bias)]
    if runs(CPU, dtype, 16):
        ways.append(attend_within(qkv, bounds, bias=bias))
    for first, end in pairwise(bounds.tolist()):
        query, key, value = qkv[first:end].double().permute(1, 2, 0, 3)
        places = torch.arange(end - first)
        added = bias[:, LONGEST + places - places[:, None]].double()
        wanted = ((query @ key.transpose(1, 2) / 4 + added).softmax(-1) @ value).transpose(0, 1)
        for got in ways:
            assert (got[first:end].double() - wanted).abs().max() < 2 * LIMITS[dtype]


@here
@pytest.mark.parametrize("dtype", LIMITS)
def test_bfloat16_is_rounded_once(dtype: torch.dtype) -> None:
    bounds = bounds_of([40, 27, 5])
    qkv = numbers(72, 12, 64, torch.bfloat16)
    assert torch.equal(attend_within(qkv, bounds), attend_within(qkv.float(), bounds).bfloat16())


@here
def test_a_sequence_has_the_same_bits_wherever_it_lies_and_whoever_computes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [70, 33, 33, 16, 5, 1]
    bounds = bounds_of(lengths, first=3)
    qkv = numbers(200, 12, 64, torch.float32)
    together = attend_within(qkv, bounds)
    for first, end in pairwise(bounds.tolist()):
        assert torch.equal(attend_within(qkv[first:end].clone(), bounds_of([end - first])), together[first:end])
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(attend_within(qkv, bounds)[3:161], together[3:161])


@here
def test_tokens_of_no_sequence_are_not_written() -> None:
    """The memory before and behind, too: a result of many, all of them looked at."""
    qkv = numbers(64, 2, 64, torch.float32)
    outs = []

    def marked(*shape: int) -> torch.Tensor:
        outs.append(torch.full(shape, 7.0))
        return outs[-1]

    class Marked(torch.Tensor):
        new_empty = staticmethod(marked)

    attend_within(qkv.as_subclass(Marked), bounds_of([9, 4], first=20))
    (out,) = outs
    assert (out[:20] == 7).all() and (out[33:] == 7).all() and (out[20:33] != 7).all()


@here
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_sequence_without_numbers_spoils_no_other_and_is_told(broken: float, part: int) -> None:
    bounds = bounds_of([27, 27, 18, 5])
    qkv = numbers(77, 2, 64, torch.float32)
    wanted = attend_within(qkv, bounds)
    qkv[30, part, 1, 5] = broken
    got = attend_within(qkv, bounds)
    same = torch.ones(77, dtype=torch.bool)
    same[27:54] = False
    assert torch.equal(got[same], wanted[same])
    assert torch.equal(got[27:54, 0], wanted[27:54, 0])  # another head
    expected = formula(qkv[27:54])[:, 1]
    assert torch.equal(got[27:54, 1].isnan(), expected.isnan())


@here
def test_large_scores_do_not_overflow() -> None:
    qkv = numbers(40, 1, 64, torch.float32) * 1e3
    got = attend_within(qkv, bounds_of([40]))
    assert (got.double() - formula(qkv)).abs().max() < 1e-2


@here
def test_torch_keeps_its_subnormal_numbers() -> None:
    attend_within(numbers(2000, 2, 64, torch.float32) * 30, bounds_of([20] * 100))
    small = torch.full((1 << 20,), 1e-39)  # enough for all threads
    assert (small * 1.5 > 1e-39).all()


@here
@pytest.mark.parametrize(
    "change",
    [
        lambda qkv, bounds: (qkv.double(), bounds),
        lambda qkv, bounds: (qkv[:, :2], bounds),
        lambda qkv, bounds: (qkv[..., :8], bounds),
        lambda qkv, bounds: (qkv.repeat(1, 1, 1, 3), bounds),
        lambda qkv, bounds: (qkv.transpose(0, 2), bounds),
        lambda qkv, bounds: (qkv[:-1], bounds),
        lambda qkv, bounds: (qkv, bounds.long()),
        lambda qkv, bounds: (qkv, bounds - 1),
        lambda qkv, bounds: (qkv, bounds.flip(0)),
        lambda qkv, bounds: (qkv, bounds[:1]),
        lambda qkv, bounds: (qkv, torch.tensor([0, LONGEST + 1], dtype=torch.int32)),
        lambda qkv, bounds: (qkv, bounds[:, None]),
        lambda qkv, bounds: (qkv, bounds.view(2, 2)),
        lambda qkv, bounds: (qkv, bounds[0]),
        lambda qkv, bounds: (qkv, torch.arange(0, (1 << 32) + 1, 512).int()),  # beyond int32, where it begins anew
        lambda qkv, bounds: (qkv.requires_grad_(), bounds),
        lambda qkv, bounds: (torch._neg_view(qkv), bounds),
    ],
)
def test_what_it_does_not_take_is_refused(
    change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    qkv, bounds = numbers(LONGEST + 1, 3, 64, torch.float32), bounds_of([500, 12, 1])
    with pytest.raises(ValueError):
        attend_within(*change(qkv, bounds))


@here
def test_a_window_that_no_token_lies_in_is_refused() -> None:
    with pytest.raises(ValueError):
        attend_within(numbers(9, 1, 16, torch.float32), bounds_of([9]), -1)


@here
def test_what_is_wanted_without_gradients_may_have_some() -> None:
    qkv = numbers(9, 1, 16, torch.float32).requires_grad_()
    with torch.no_grad():
        assert torch.equal(attend_within(qkv, bounds_of([9])), attend_within(qkv.detach(), bounds_of([9])))


@here
@pytest.mark.parametrize(("tokens", "heads"), [(0, 2), (0, 0), (64, 0)])
def test_nothing_gives_nothing(tokens: int, heads: int) -> None:
    bounds = bounds_of([tokens, *[0] * 63])  # enough for all threads
    assert attend_within(numbers(tokens, heads, 16, torch.float32), bounds).shape == (tokens, heads, 16)


@here
def test_encoders_and_chat_go_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int | None]] = []

    def counted(qkv: torch.Tensor, bounds: torch.Tensor, window: int | None, bias: object) -> torch.Tensor:
        asked.append((len(bounds) - 1, window))
        return attend_within(qkv, bounds, window)

    monkeypatch.setattr(native, "attend_within", counted)
    qkv = numbers(1200, 2, 64, torch.float32)
    bounds = bounds_of([27, 27])
    packed_attention.attend(qkv, Block(qkv, qkv, None, 54, ((0, 2, 27),), bounds, 27), 5)
    assert asked == [(2, 5)]
    longer = bounds_of([LONGEST + 1])
    packed_attention.attend(qkv, Block(qkv, qkv, None, LONGEST + 1, ((0, 1, LONGEST + 1),), longer, LONGEST + 1))
    assert len(asked) == 1  # as fast in torch's
    assert generation_attention.attention(CPU, torch.float32, 40) is native.attend_cache
    assert generation_attention.attention(CPU, torch.float32, 136) is generation_attention.by_torch


def test_without_it_attention_goes_torchs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = numbers(64, 2, 64, torch.float32)
    block = Block(qkv, qkv, None, 54, ((0, 2, 27),), bounds_of([27, 27]), 27)
    got = packed_attention.attend(qkv, block)
    runs.cache_clear()
    monkeypatch.setattr(native, "_code", None)
    try:
        assert not runs(CPU, torch.float32, 64)
        other = packed_attention.attend(qkv, block)
    finally:
        monkeypatch.undo()
        runs.cache_clear()
    assert torch.allclose(got, other, atol=2e-6, rtol=0)
    assert not got[54:].any() and not other[54:].any()


def cache_formula(query: torch.Tensor, pairs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, K, H, D], float64."""
    dim = query.shape[-1]
    keys, values = pairs.double().split(dim, -1)
    scores = query.double() @ keys.transpose(2, 3) / dim**0.5 + mask.double()
    return (scores.softmax(-1) @ values).transpose(1, 2)


def cache_like(
    rows: int, heads: int, queries: int, keys: int, dim: int, dtype: torch.dtype, each: bool, seen: float = 0.6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, pairs and mask laid out as in a batch: queries within a wider product, pairs in a longer cache."""
    draw = torch.Generator().manual_seed(rows + heads + queries + keys + dim)
    product = torch.randn(rows * queries, 3 * heads * dim, generator=draw).to(dtype)
    query = product[:, : heads * dim].view(rows, queries, heads, dim).transpose(1, 2)
    pairs = torch.randn(rows, heads, keys + 7, 2 * dim, generator=draw).to(dtype)
    visible = torch.rand(rows, 1, queries if each else 1, keys, generator=draw) < seen
    visible[..., -1] = True
    mask = torch.zeros((), dtype=dtype).where(visible, -torch.inf)
    hidden = ~visible.any(2)[:, 0]
    pairs.transpose(1, 2)[:, :keys][hidden] = torch.nan  # nobody may look there
    return query, pairs[:, :, :keys], mask


@here
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize(
    ("rows", "heads", "queries", "keys", "dim"),
    [
        (1, 1, 1, 1, 16),
        (3, 4, 1, 70, 40),
        (20, 2, 1, 33, 64),
        (2, 3, 10, 300, 40),
        (9, 2, 10, 17, 8),
        (1, 2, 7, 600, 99),
    ],
)
def test_a_cache_gives_what_the_formula_gives(
    dtype: torch.dtype, each: bool, rows: int, heads: int, queries: int, keys: int, dim: int
) -> None:
    query, pairs, mask = cache_like(rows, heads, queries, keys, dim, dtype, each)
    got = attend_cache(query, pairs, mask)
    assert got.shape == (rows, queries, heads, dim) and got.is_contiguous() and got.dtype == dtype
    wanted = cache_formula(query, pairs.nan_to_num(), mask)
    assert (got.double() - wanted).abs().max() < LIMITS[dtype]


@here
def test_a_row_of_a_cache_has_the_same_bits_beside_others_and_wherever_its_keys_lie() -> None:
    query, pairs, mask = cache_like(6, 3, 2, 40, 40, torch.float32, each=False)
    together = attend_cache(query, pairs, mask)
    for row in range(6):
        seen = mask[row, 0, 0] == 0
        alone = attend_cache(
            query[row : row + 1].clone(),
            pairs[row : row + 1, :, seen].contiguous(),
            torch.zeros(1, 1, 1, int(seen.sum())),
        )
        assert torch.equal(together[row], alone[0])


@here
@pytest.mark.parametrize("dtype", LIMITS)
def test_a_mask_may_hold_negative_zeros(dtype: torch.dtype) -> None:
    query, pairs, mask = cache_like(2, 2, 3, 20, 16, dtype, each=True)
    negative = torch.tensor(-0.0, dtype=dtype).where(mask == 0, -torch.inf)
    assert torch.equal(attend_cache(query, pairs, negative), attend_cache(query, pairs, mask))


@here
@pytest.mark.parametrize(
    ("rows", "heads", "queries", "keys"), [(0, 2, 3, 5), (40, 0, 3, 5), (4, 2, 0, 5), (4, 2, 3, 0), (4, 2, 1, 0)]
)
def test_a_cache_of_nothing_gives_nothing(rows: int, heads: int, queries: int, keys: int) -> None:
    shape = rows, heads, queries, 16
    got = attend_cache(torch.ones(shape), torch.ones(rows, heads, keys, 32), torch.zeros(rows, 1, queries, keys))
    assert got.shape == (rows, queries, heads, 16) and not got.any()


@here
def test_a_cache_may_be_the_same_for_all_rows_and_heads() -> None:
    query, pairs, mask = cache_like(4, 3, 2, 20, 16, torch.float32, each=True)
    pairs = pairs[:1, :1].nan_to_num().expand(4, 3, -1, -1)
    query, mask = query[:, :1].expand(-1, 3, -1, -1), mask[:, :, :1].expand(-1, -1, 2, -1)
    plain = attend_cache(query.contiguous(), pairs.contiguous(), mask.contiguous())
    assert torch.equal(attend_cache(query, pairs, mask), plain)


@here
def test_a_query_that_sees_nothing_gets_zeros() -> None:
    query, pairs, mask = cache_like(2, 2, 3, 20, 16, torch.float32, each=True)
    mask[1, 0, 1] = -torch.inf
    got = attend_cache(query, pairs.nan_to_num(), mask)
    assert not got[1, 1].any() and got[1, 0].all() and got[1, 2].all()
    assert not attend_cache(query, pairs, torch.full_like(mask, -torch.inf)).any()


@here
@pytest.mark.parametrize(
    "change",
    [
        lambda query, pairs, mask: (query.double(), pairs, mask),
        lambda query, pairs, mask: (query, pairs.bfloat16(), mask),
        lambda query, pairs, mask: (query, pairs, mask.double()),
        lambda query, pairs, mask: (query, pairs[:, :, :-1], mask),
        lambda query, pairs, mask: (query, pairs[:1], mask),
        lambda query, pairs, mask: (query, pairs[:, :1], mask),
        lambda query, pairs, mask: (query, pairs[..., :-2], mask),
        lambda query, pairs, mask: (query, pairs.transpose(2, 3).contiguous().transpose(2, 3), mask),
        lambda query, pairs, mask: (query, pairs[:, :, ::2], mask[..., ::2].contiguous()),
        lambda query, pairs, mask: (query, pairs, mask[:, :, :2]),
        lambda query, pairs, mask: (query, pairs, mask.expand(-1, 2, -1, -1)),
        lambda query, pairs, mask: (query, pairs, mask[..., :1].expand(-1, -1, -1, 20)),
        lambda query, pairs, mask: (query.requires_grad_(), pairs, mask),
        lambda query, pairs, mask: (query, pairs.requires_grad_(), mask),
        lambda query, pairs, mask: (query, torch._neg_view(pairs), mask),
    ],
)
def test_a_cache_that_it_does_not_take_is_refused(change: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    with pytest.raises(ValueError):
        attend_cache(*change(*cache_like(2, 2, 3, 20, 16, torch.float32, each=True)))
