"""The norm of a sum in native code: every width, in whatever company, and the encoders that go this way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel, PreTrainedModel, RobertaConfig, RobertaModel

from secbatch.models import native
from secbatch.models.encoder_bert import PackedBert
from secbatch.models.native import norm_of_sum, norms
from secbatch.models.packed import Norm
from secbatch.models.sequences import TokenSequences

EPS = 1e-5
here = pytest.mark.skipif(not norms(torch.ones(1)), reason="no AVX-512, or no C compiler at installation")
LIMITS = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
Four = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def numbers(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Four:
    draw = torch.Generator().manual_seed(rows + width)
    x, residual = torch.randn(2, rows, width, generator=draw).to(dtype)
    weight, bias = torch.randn(2, width, generator=draw).to(dtype)
    return x, residual, weight, bias


def formula(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    total = x.double() + residual.double()
    away = total - total.mean(-1, keepdim=True)
    return away / ((away**2).mean(-1, keepdim=True) + EPS).sqrt() * weight.double() + bias.double()


@here
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 63, 64, 65, 71, 128, 312, 384, 768, 1000, 1024, 4096])
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 100])
def test_it_gives_what_the_formula_gives(dtype: torch.dtype, width: int, rows: int) -> None:
    four = numbers(rows, width, dtype)
    got, wanted = norm_of_sum(*four, EPS), formula(*four)
    assert got.dtype == dtype and got.shape == (rows, width)
    total = (four[0].double() + four[1].double()).abs().amax(-1, keepdim=True)
    deviation = ((four[0] + four[1]).double().var(-1, correction=0, keepdim=True) + EPS).sqrt()
    rounding = 1e-7 * total / deviation * four[2].double().abs()  # of sums, where they hardly differ
    assert ((got.double() - wanted).abs() <= LIMITS[dtype] * (1 + wanted.abs()) + rounding).all()


@here
def test_numbers_far_from_zero_keep_their_differences() -> None:
    x, residual, weight, bias = numbers(50, 768)
    four = x + 1000, residual, weight, bias
    assert (norm_of_sum(*four, EPS).double() - formula(*four)).abs().max() < 1e-3


@here
def test_no_sum_is_rounded_to_bfloat16() -> None:
    """256 and 0.5 are one number there, so differences of the sums would be lost."""
    _, _, weight, bias = numbers(20, 64, torch.bfloat16)
    x = torch.full((20, 64), 256, dtype=torch.bfloat16)
    residual = (torch.arange(20 * 64).view(20, 64) % 5 / 8).bfloat16()
    got = norm_of_sum(x, residual, weight, bias, EPS)
    assert (got.double() - formula(x, residual, weight, bias)).abs().max() < 5e-2
    assert (F.layer_norm(x + residual, (64,), weight, bias, EPS) - got).abs().max() > 0.5


@here
@pytest.mark.parametrize("dtype", LIMITS)
def test_a_row_has_the_same_bits_wherever_it_lies_and_whoever_computes_it(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    x, residual, weight, bias = numbers(90, 71, dtype)
    together = norm_of_sum(x, residual, weight, bias, EPS)
    for row in (0, 15, 16, 40, 89):
        alone = norm_of_sum(x[row : row + 1].clone(), residual[row : row + 1].clone(), weight, bias, EPS)
        assert torch.equal(alone[0], together[row])
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(norm_of_sum(x, residual, weight, bias, EPS), together)


@here
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_row_without_numbers_spoils_no_other_and_is_told(broken: float, place: int) -> None:
    four = numbers(40, 100)
    wanted = norm_of_sum(*four, EPS)
    four[place][20, 70] = broken
    got = norm_of_sum(*four, EPS)
    others = torch.arange(40) != 20
    assert torch.equal(got[others], wanted[others]) and got[20].isnan().all()


@here
@pytest.mark.parametrize(
    "change",
    [
        lambda x, residual, weight, bias: (x.double(), residual.double(), weight.double(), bias.double()),
        lambda x, residual, weight, bias: (x, residual.bfloat16(), weight, bias),
        lambda x, residual, weight, bias: (x, residual, weight.bfloat16(), bias.bfloat16()),
        lambda x, residual, weight, bias: (x, residual, weight, bias.bfloat16()),
        lambda x, residual, weight, bias: (x, residual[1:], weight, bias),
        lambda x, residual, weight, bias: (x[:, :-1], residual[:, :-1], weight[:-1], bias[:-1]),
        lambda x, residual, weight, bias: (x, residual.t().contiguous().t(), weight, bias),
        lambda x, residual, weight, bias: (x, residual, weight[:-1], bias[:-1]),
        lambda x, residual, weight, bias: (x, residual, weight, bias[:1]),
        lambda x, residual, weight, bias: (x, residual, weight[None], bias),
        lambda x, residual, weight, bias: (x[0], residual[0], weight, bias),
        lambda x, residual, weight, bias: (x.to("meta"), residual.to("meta"), weight, bias),
        lambda x, residual, weight, bias: (x, residual, weight.requires_grad_(), bias),
        lambda x, residual, weight, bias: (x, torch._neg_view(residual), weight, bias),
    ],
)
def test_what_it_does_not_take_is_refused(change: Callable[..., Any]) -> None:
    with pytest.raises(ValueError):
        norm_of_sum(*change(*numbers(9, 20)), EPS)


@here
@pytest.mark.parametrize(("rows", "width"), [(0, 20), (9, 0), (0, 0)])
def test_nothing_gives_nothing(rows: int, width: int) -> None:
    assert norm_of_sum(*numbers(rows, width), EPS).shape == (rows, width)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_norm_without_shift_goes_torchs_way(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    if not compiled:
        monkeypatch.setattr(native, "runs", lambda *_: False)
    x, residual, weight, bias = numbers(9, 20)
    for norm in (Norm(weight, None, EPS), Norm(None, None, EPS), *([] if compiled else [Norm(weight, bias, EPS)])):
        assert not norm.adds and torch.equal(norm.of_sum(x, residual), norm(x + residual))


@here
@pytest.mark.parametrize("kind", [(BertConfig, BertModel), (RobertaConfig, RobertaModel)])
@torch.inference_mode()
def test_encoders_go_this_way_and_give_the_same_without_it(
    monkeypatch: pytest.MonkeyPatch, kind: tuple[Any, type[PreTrainedModel]]
) -> None:
    config, model = kind
    torch.manual_seed(0)
    base = model(config(vocab_size=50, hidden_size=48, num_hidden_layers=3, num_attention_heads=2)).eval()
    sequences = TokenSequences.of([list(range(5, 5 + length)) for length in (30, 20, 9)])
    asked = []

    def counted(x: torch.Tensor, *others: Any) -> torch.Tensor:
        asked.append(len(x))
        return norm_of_sum(x, *others)

    monkeypatch.setattr(native, "norm_of_sum", counted)
    got = PackedBert(base, "cpu")(sequences)
    assert len(asked) == 1 + 2 * 3  # the embeddings', and two a layer
    monkeypatch.setattr(native, "runs", lambda *_: False)
    other = PackedBert(base, "cpu")(sequences)
    assert len(asked) == 7 and torch.allclose(got, other, atol=5e-6, rtol=0)
