"""Batch plans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secbatch.models.batching import even_budget, plan_batches

lengths = st.lists(st.integers(1, 60), max_size=80).map(lambda values: np.array(values, np.int64))


@given(lengths, st.integers(1, 200), st.booleans(), st.none() | st.integers(1, 9))
def test_every_row_is_in_one_batch_within_the_budget(
    lengths: np.ndarray, budget: int, padded: bool, max_rows: int | None
) -> None:
    plan = plan_batches(lengths, budget, padded=padded, max_rows=max_rows)
    assert sorted(np.concatenate([*plan, []]).tolist()) == list(range(len(lengths)))
    for rows in plan:
        cost = len(rows) * lengths[rows].max() if padded else lengths[rows].sum()
        assert cost <= budget or len(rows) == 1
        assert max_rows is None or len(rows) <= max_rows


@given(lengths, st.integers(1, 200))
def test_longest_first_and_stable(lengths: np.ndarray, budget: int) -> None:
    order = np.concatenate([*plan_batches(lengths, budget), []]).astype(int)
    assert order.tolist() == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


def test_batches_are_filled() -> None:
    plan = plan_batches(np.full(100, 10), 100)
    assert [len(rows) for rows in plan] == [10] * 10


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="token_budget"):
        plan_batches(np.array([1]), 0)


@pytest.mark.parametrize("seed", range(6))
def test_an_even_budget_makes_batches_of_about_as_many_tokens(seed: int) -> None:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 60, 5_000 + 900 * seed)
    budget = even_budget(lengths, 20_000)
    assert budget <= 20_000
    sizes = [int(lengths[rows].sum()) for rows in plan_batches(lengths, budget)]
    assert sum(sizes) == lengths.sum() and max(sizes) <= budget
    assert max(sizes) - min(sizes) <= len(sizes) * 60
    assert len(sizes) <= -(-lengths.sum() // 20_000) + 1


@pytest.mark.parametrize(("lengths", "budget"), [([], 10), ([5], 10), ([50], 10), ([5, 5], 10), ([9, 9, 9], 10)])
def test_an_even_budget_of_little(lengths: list[int], budget: int) -> None:
    numbers = np.array(lengths, np.int64)
    found = even_budget(numbers, budget)
    assert 1 <= found <= budget
    assert sum(map(len, plan_batches(numbers, found))) == len(lengths)
