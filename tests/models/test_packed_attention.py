"""Attention of all lengths in one kernel, as a GPU has it, with a stand-in for the kernel."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from secbatch.models import packed_attention
from secbatch.models.device import choose
from secbatch.models.encoder import hidden_states
from secbatch.models.encoder_generic import StockEncoder
from secbatch.models.load import load_model
from secbatch.models.packed import Block
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences

CPU = choose("cpu", "float32")


def one_kernel(qkv: torch.Tensor, bounds: torch.Tensor, longest: int, window: int | None = None) -> torch.Tensor:
    """What the GPU's kernel gives; it knows `bounds` only. Tokens of no sequence get nonsense."""
    out = torch.full((len(qkv), *qkv.shape[2:]), torch.nan)
    for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        assert 0 < end - first <= longest
        here = Block(qkv, qkv, None, end - first, ((0, 1, end - first),))
        out[first:end] = packed_attention.attend(qkv[first:end], here, window).view(end - first, *qkv.shape[2:])
    return out


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert"])
def test_nonsense_for_filling_stays_there(
    tiny: Callable[[str], ResolvedModel], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_model(tiny(kind), "encoder", CPU).model
    path = hidden_states(base, 0, CPU)
    draw = np.random.default_rng(2)
    lengths = np.sort(draw.integers(1, 60, 40))[::-1]
    sequences = TokenSequences.of([draw.integers(5, base.config.vocab_size, length) for length in lengths])

    asked: list[int | None] = []
    monkeypatch.setattr("secbatch.models.packed.BLOCK_TOKENS", 1 << 20)
    monkeypatch.setattr("secbatch.models.packed_attention.native.runs", lambda *_: False)
    monkeypatch.setattr(packed_attention, "flash_attention", one_kernel)
    monkeypatch.setattr(
        packed_attention,
        "has_flash_attention",
        lambda device, dtype, width, window=None: asked.append(window) is None,
    )
    at = np.arange(0, len(sequences.ids), 5)
    with torch.inference_mode():
        wanted = StockEncoder(base, 0, "cpu", pad=False)(sequences)
        assert len(sequences.ids) % 32  # there is filling
        assert torch.allclose(path(sequences), wanted, atol=1e-5, rtol=0)
        assert torch.allclose(path(sequences, at), wanted[torch.from_numpy(at)], atol=1e-5, rtol=0)
    assert asked and (set(asked) == {None} or kind == "modernbert")


def test_a_cpu_has_no_such_kernel() -> None:
    assert not packed_attention.has_flash_attention(torch.device("cpu"), torch.bfloat16, 64)
