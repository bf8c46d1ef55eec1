"""How batches are cut into blocks."""

import numpy as np
import pytest
import torch
from transformers import ModernBertConfig, ModernBertModel
from transformers.activations import ACT2CLS, ACT2FN

from secbatch.models.encoder_modernbert import PackedModernBert
from secbatch.models.native import LONGEST
from secbatch.models.packed import BLOCK_TOKENS, LEAST_TOKENS, ROWS, block_ends, block_size, blocks, exact_gelu
from secbatch.models.sequences import TokenSequences


def sizes_of(lengths: np.ndarray) -> np.ndarray:
    ends = block_ends(np.cumsum(lengths), BLOCK_TOKENS)
    assert ends[-1] == len(lengths) and all(np.diff([0, *ends]) > 0)
    return np.add.reduceat(lengths, [0, *ends[:-1]])


def test_blocks_are_full_and_hold_little_filling() -> None:
    generator = np.random.default_rng(3)
    lengths = np.sort(generator.integers(4, 60, 2_000))[::-1]
    sizes = sizes_of(lengths)
    assert sizes.max() <= BLOCK_TOKENS and sizes[:-1].min() >= BLOCK_TOKENS * 3 // 4
    assert (-sizes % ROWS).sum() < 0.006 * lengths.sum()


@pytest.mark.parametrize("lengths", [[1], [5000], [5000, 4000, 20], [1024] * 3, [513] * 5, [512] * 5, [3] * 1000])
def test_every_sequence_is_in_one_block(lengths: list[int]) -> None:
    sizes = sizes_of(np.array(lengths))
    assert sizes.sum() == sum(lengths)
    assert all(size <= BLOCK_TOKENS or size in lengths for size in sizes)


def test_blocks_are_smaller_where_several_threads_share_a_batch() -> None:
    assert block_size(8_192, 1) == block_size(1, 1) == BLOCK_TOKENS
    assert block_size(8_192, 2) == 8_192 // 8 and block_size(1 << 20, 2) == BLOCK_TOKENS // 2
    assert block_size(2_048, 2) == block_size(10, 64) == LEAST_TOKENS


def test_a_block_holds_its_sequences() -> None:
    lengths = np.arange(130, 0, -1)
    generator = np.random.default_rng(4)
    ids = generator.integers(0, 1000, lengths.sum()).astype(np.int32)
    types = generator.integers(0, 2, lengths.sum()).astype(np.int32)
    sequences = TokenSequences(ids, np.concatenate([[0], np.cumsum(lengths)]), types)
    parts = blocks(sequences, "cpu")
    assert len(parts) > 3 and all(len(part.ids) % ROWS == 0 for part in parts)
    assert np.array_equal(np.concatenate([part.ids[: part.tokens] for part in parts]), ids)
    assert all(part.types is not None for part in parts)
    assert np.array_equal(
        np.concatenate([part.types[: part.tokens] for part in parts if part.types is not None]), types
    )
    wanted = np.concatenate([np.arange(length) for length in lengths])
    assert np.array_equal(np.concatenate([part.positions[: part.tokens] for part in parts]), wanted)
    assert [group for part in parts for group in part.groups if group[0] == 0]
    assert sum(count * length for part in parts for _, count, length in part.groups) == len(ids)


def test_long_sequences_and_short_ones_are_in_different_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their attention goes different ways: a short text's results would depend on whether a long one is beside it."""
    lengths = [LONGEST + 200, LONGEST + 1, LONGEST, 20, 7]
    sequences = TokenSequences.of([np.arange(length, dtype=np.int32) for length in lengths])
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # so that blocks have room for both
    parts = blocks(sequences, "cpu")
    assert [[length for _, count, length in part.groups for _ in range(count)] for part in parts] == [
        lengths[:2],
        lengths[2:],
    ]


def test_a_short_text_has_the_same_bits_beside_a_long_one() -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    no_others = {f"{name}_token_id": None for name in ("bos", "eos", "cls", "sep")}
    base = ModernBertModel(ModernBertConfig(vocab_size=100, pad_token_id=0, **size, **no_others)).eval()  # type: ignore[arg-type]
    path = PackedModernBert(base, "cpu")
    if not path.batch_free:
        pytest.skip("products of this torch depend on the batch")
    long, short = np.arange(LONGEST + 90) % 100, np.arange(20)
    with torch.inference_mode():
        together, alone = path(TokenSequences.of([long, short])), path(TokenSequences.of([short]))
    assert torch.equal(together[len(long) :], alone)


@pytest.mark.parametrize("activation", [*ACT2CLS, "torch", "torch, by tanh"])
def test_what_is_taken_for_gelu_is_gelu(activation: str) -> None:
    """Linear layers compute it in its place."""
    others = {"torch": torch.nn.GELU(), "torch, by tanh": torch.nn.GELU("tanh")}
    function, x = others.get(activation) or ACT2FN[activation], torch.linspace(-4, 4, 100)
    assert exact_gelu(function) == (activation in ("gelu", "torch"))
    assert not exact_gelu(function) or torch.equal(function(x), torch.nn.functional.gelu(x))
