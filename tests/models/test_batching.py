"""Batch plans."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secbatch.models.batch_runner import default_token_budget
from secbatch.models.batching import plan_batches
from secbatch.models.device import Compute
from secbatch.models.packed import BLOCK_TOKENS, block_size

lengths = st.lists(st.integers(1, 60), max_size=80).map(lambda values: np.array(values, np.int64))


@given(lengths, st.integers(1, 200), st.booleans())
def test_every_row_is_in_one_batch_within_the_budget(lengths: np.ndarray, budget: int, padded: bool) -> None:
    plan = plan_batches(lengths, budget, padded=padded)
    assert sorted(np.concatenate([*plan, []]).tolist()) == list(range(len(lengths)))
    for rows in plan:
        cost = len(rows) * lengths[rows].max() if padded else lengths[rows].sum()
        assert cost <= budget or len(rows) == 1


@given(lengths, st.integers(1, 200), st.booleans(), st.integers(1, 20))
def test_rows_cost_what_the_model_fills_them_up_to(
    lengths: np.ndarray, budget: int, padded: bool, multiple: int
) -> None:
    plan = plan_batches(lengths, budget, padded=padded, multiple=multiple)
    order = np.concatenate([*plan, []]).astype(int)
    assert order.tolist() == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for rows in plan:
        costs = np.array([math.ceil(length / multiple) * multiple for length in lengths[rows]])
        assert (len(rows) * costs.max() if padded else costs.sum()) <= budget or len(rows) == 1


@given(lengths, st.integers(1, 200))
def test_longest_first_and_stable(lengths: np.ndarray, budget: int) -> None:
    order = np.concatenate([*plan_batches(lengths, budget), []]).astype(int)
    assert order.tolist() == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


def test_batches_are_filled() -> None:
    plan = plan_batches(np.full(100, 10), 100)
    assert [len(rows) for rows in plan] == [10] * 10


def test_a_gpu_gets_larger_batches_than_a_cpu() -> None:
    budgets = [
        default_token_budget(Compute(device, dtype, device))
        for device, dtype in (("cpu", "bfloat16"), ("cpu", "float32"), ("cuda:0", "float32"), ("cuda:1", "bfloat16"))
    ]
    assert budgets == [4 * BLOCK_TOKENS, 4 * BLOCK_TOKENS, 65_536, 65_536]


def test_a_narrow_models_own_forward_gets_more_tokens_than_a_wide_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def budget(width: int, threads: int = 1) -> int:
        monkeypatch.setattr("torch.get_num_threads", lambda: threads)
        return default_token_budget(Compute("cpu", "float32", "a CPU"), in_blocks=False, width=width)

    assert [budget(width) for width in (0, 4, 64, 128, 256, 768)] == [512, 2048, 2048, 2048, 1024, 512]
    assert [budget(64, threads) for threads in (2, 16)] == [4096, 8192]


def test_a_batch_has_blocks_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads in (1, 2, 16, 96):
        monkeypatch.setattr("torch.get_num_threads", lambda count=threads: count)
        tokens = default_token_budget(Compute("cpu", "float32", "a CPU"))
        assert tokens // block_size(tokens, threads) >= 2 * threads


def test_a_gpu_with_much_memory_gets_larger_ones_without_padding() -> None:
    small, large = (Compute("cuda:0", "bfloat16", "a GPU", memory=gigabytes << 30) for gigabytes in (24, 80))
    assert default_token_budget(large) == 2 * default_token_budget(small)
    assert default_token_budget(large, in_blocks=False) == default_token_budget(small, in_blocks=False)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="token_budget"):
        plan_batches(np.array([1]), 0)
