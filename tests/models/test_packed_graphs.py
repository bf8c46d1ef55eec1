"""Layers that are recorded by the shape of a block, with a stand-in for the recording: there is no GPU here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from secbatch.models import encoder_bert, encoder_modernbert, packed, packed_attention
from secbatch.models.device import choose
from secbatch.models.encoder_generic import StockEncoder
from secbatch.models.load import load_model
from secbatch.models.packed import Block
from secbatch.models.packed_graphs import LayerGraphs
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences

CPU = choose("cpu", "float32")


class Tape:
    """Does again what was recorded, with what its inputs hold now; makes its own copies of them, as a graph does."""

    made = 0

    def __init__(self, function: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], **how: object) -> None:
        Tape.made += 1
        self._function, self._inputs = function, [tensor.clone() for tensor in inputs]

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        for kept, given in zip(self._inputs, inputs, strict=True):
            assert kept.shape == given.shape
            kept.copy_(given)
        return self._function(*self._inputs)


def one_kernel(qkv: torch.Tensor, bounds: torch.Tensor, longest: int, window: int | None = None) -> torch.Tensor:
    """What the GPU's kernel gives; it knows `bounds` only. Tokens of no sequence get nonsense."""
    out = torch.full((len(qkv), *qkv.shape[2:]), torch.nan)
    for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        assert 0 <= end - first <= longest
        if end > first:
            here = Block(qkv, qkv, None, end - first, ((0, 1, end - first),))
            out[first:end] = packed_attention.attend(qkv[first:end], here, window).view(end - first, *qkv.shape[2:])
    return out


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, Tape.made = packed._block, 0
    here = torch.device("cpu")

    def block(sequences: TokenSequences, first: int, end: int, device: str) -> Block:
        return kept(sequences, first, end, "meta")

    monkeypatch.setattr(packed, "on_device", lambda numbers, device: torch.from_numpy(numbers).to(here))
    monkeypatch.setattr(packed, "_block", block)
    monkeypatch.setattr(packed, "block_ends", lambda ends: [len(ends)])
    monkeypatch.setattr(packed_attention, "flash_attention", one_kernel)
    for room in (packed_attention, encoder_bert, encoder_modernbert):
        monkeypatch.setattr(room, "has_flash_attention", lambda device, dtype, width, window=None: True)
    monkeypatch.setattr("secbatch.models.packed_encoder.Recorded", Tape)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)


def drawn(vocabulary: int, seed: int, longest: int) -> TokenSequences:
    draw = np.random.default_rng(seed)
    lengths = np.sort(draw.integers(1, longest, 40))[::-1]
    return TokenSequences.of([draw.integers(5, vocabulary, length) for length in lengths])


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert"])
def test_blocks_of_one_shape_are_recorded_and_give_what_the_stock_model_gives(
    tiny: Callable[[str], ResolvedModel], kind: str, as_on_a_gpu: None
) -> None:
    base = load_model(tiny(kind), "encoder", CPU).model
    path: Any = (encoder_modernbert.PackedModernBert if kind == "modernbert" else encoder_bert.PackedBert)(base, "cpu")
    stock = StockEncoder(base, 0, "cpu", pad=False)
    with torch.inference_mode():
        for seed, longest in enumerate((30, 30, 30, 60, 20, 60, 30)):
            sequences = drawn(base.config.vocab_size, seed, longest)
            wanted = stock(sequences)
            assert torch.allclose(path(sequences), wanted, atol=1e-5, rtol=0)
            at = np.arange(seed, len(sequences.ids), 5)
            assert torch.allclose(path(sequences, at), wanted[torch.from_numpy(at)], atol=1e-5, rtol=0)
    assert 1 <= Tape.made <= 3  # all are of 1,024 or 2,048 tokens, 256 sequences and length 128


def test_layers_that_cannot_be_recorded_run_as_they_are() -> None:
    runs: list[int] = []

    def layers(block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        runs.append(len(block.ids))
        return torch.ones(len(block.ids), 2), torch.zeros(len(block.ids), 2)

    def refuse(function: Any, inputs: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    def exhausted(function: Any, inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    block = Block(torch.zeros(4), torch.zeros(4), None, 4, (), torch.tensor([0, 4]), 128)
    graphs = LayerGraphs(layers, refuse)
    for _ in range(3):
        ones, zeros = graphs(block)
        assert bool(ones.all()) and not bool(zeros.any())
    graphs = LayerGraphs(layers, exhausted)
    graphs(block)
    with pytest.raises(torch.OutOfMemoryError):  # the batch runner's matter
        graphs(block)


def test_a_larger_block_makes_room_for_its_results_and_smaller_ones_are_recorded_anew() -> None:
    def layers(block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        rows = block.ids[:, None].expand(-1, 2).float()
        return rows + 1, rows * 2

    Tape.made = 0
    graphs = LayerGraphs(layers, Tape)
    for tokens in (4, 4, 8, 8, 4, 4, 8):
        ids = torch.arange(tokens) + 10 * tokens
        first, second = graphs(Block(ids, ids, None, tokens, (), torch.tensor([0, tokens]), 128))
        assert first[:, 0].tolist() == (ids + 1).tolist() and second[:, 1].tolist() == (ids * 2).tolist()
    assert Tape.made == 3
