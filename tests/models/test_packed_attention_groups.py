"""Attention of sequences that lie end to end, with keys that reach into the next one."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from secbatch.models.device import choose
from secbatch.models.encoder import hidden_states
from secbatch.models.load import load_model
from secbatch.models.packed_attention_groups import attend_by_groups
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from tests.models.attention_formula import formula

LENGTHS = (530, 140, 47, 32, 31, 31, 31, 20, 17, 16, 13, 5, 5, 5, 4, 4, 3, 1, 1)


def groups_of(lengths: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    ends = np.cumsum([0, *lengths])
    sequences = TokenSequences(np.zeros(ends[-1], np.int32), ends.astype(np.int64))
    return tuple(sequences.groups())


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("filling", [0, 1, 30])
def test_each_sequence_sees_itself_formula(dtype: torch.dtype, limit: float, filling: int, window: int | None) -> None:
    tokens = sum(LENGTHS)
    qkv = torch.randn(tokens + filling, 3, 2, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        got = attend_by_groups(qkv, groups_of(LENGTHS), window, neighbours=True)
        apart = attend_by_groups(qkv, groups_of(LENGTHS), window, neighbours=False)
    for first, end in pairwise(np.cumsum([0, *LENGTHS]).tolist()):
        assert (got[first:end].double() - formula(qkv[first:end], window)).abs().max() < limit
        assert torch.equal(got[first:end], apart[first:end])


@pytest.mark.parametrize("window", [0, 5, 64, 150])
def test_long_sequences_see_their_windows_piece_by_piece(window: int) -> None:
    for length in (*range(255, 275), *range(380, 388), 385 + window, 555, 601, 1030):
        qkv = torch.randn(3 + 2 * length, 3, 2, 16, generator=torch.Generator().manual_seed(length))
        got = attend_by_groups(qkv, ((3, 2, length),), window, neighbours=True)
        for first in (3, 3 + length):
            wanted = formula(qkv[first : first + length], window)
            assert (got[first : first + length].double() - wanted).abs().max() < 2e-6, length


def test_a_long_sequence_is_not_compared_with_what_lies_beyond_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,000 tokens with windows of 64, scores of 256 keys at most for each: 16 times less than all of them."""
    scores = []
    attention = F.scaled_dot_product_attention

    def counted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        scores.append(query.shape[0] * query.shape[2] * key.shape[2])
        return attention(query, key, value, attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    attend_by_groups(torch.zeros(4_000, 3, 1, 16), ((0, 1, 4_000),), 64, neighbours=True)
    assert sum(scores) < 4_000 * 300


def test_a_sequence_has_the_same_bits_wherever_it_lies() -> None:
    draw = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        for length in range(1, 70):
            qkv = torch.randn(5 * length, 3, 2, 16, generator=draw)
            together = attend_by_groups(qkv, groups_of((length,) * 5), None, neighbours=True)
            for place in range(5):
                span = slice(place * length, (place + 1) * length)
                single = attend_by_groups(qkv[span].clone(), groups_of((length,)), None, neighbours=True)
                assert torch.equal(together[span], single)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_sequence_without_numbers_spoils_no_other(tiny: Callable[[str], ResolvedModel], broken: float) -> None:
    compute = choose("cpu", "float32")
    base = load_model(tiny("roberta"), "encoder", compute).model
    ids = [np.full(length, 20 + n, np.int32) for n, length in enumerate((31, 31, 27, 21, 12, 12, 6, 5))]
    path = hidden_states(base, 0, compute)
    assert path.packed
    wanted = path(TokenSequences.of(ids))
    poisoned = [row.copy() for row in ids]
    for row in (1, 4, 7):
        poisoned[row][0] = 7
    with torch.no_grad():
        base.get_input_embeddings().weight[7] = broken
    sequences = TokenSequences.of(poisoned)
    firsts = sequences.offsets[:-1]
    with torch.inference_mode():
        got, chosen = path(sequences), path(sequences, firsts)
    for row, (first, end) in enumerate(pairwise(sequences.offsets.tolist())):
        if row in (1, 4, 7):
            assert not got[first:end].isfinite().any() and not chosen[row].isfinite().any()
        else:
            assert torch.equal(got[first:end], wanted[first:end]) and F.mse_loss(chosen[row], wanted[first]) < 1e-10
