"""The nearest rows against numpy's stable sort of all products."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secbatch.errors import SecbatchError
from secbatch.models.nearest import FILLED, NearestRows, top
from tests.models.lacking import Clock


def brute_force(matrix: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    scores = vectors.astype(np.float64) @ matrix.T.astype(np.float64)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("count", [1, 3, 64, 500])
@pytest.mark.parametrize("block", [None, (100, 64), (7, 30)])
def test_equals_brute_force_with_many_ties(count: int, block: tuple[int, int] | None) -> None:
    chosen = np.random.default_rng(0)
    # Whole numbers: products are exact, and many of them are equal.
    matrix = chosen.integers(-2, 3, (300, 8)).astype(np.float32)
    vectors = chosen.integers(-2, 3, (50, 8)).astype(np.float32)
    scores, rows = NearestRows(matrix, "cpu", block).best(vectors, count)
    wanted_scores, wanted_rows = brute_force(matrix, vectors, count)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    assert np.array_equal(rows, wanted_rows)
    assert np.array_equal(scores, wanted_scores)


def test_equals_brute_force_on_many_rows(tmp_path: Path) -> None:
    chosen = np.random.default_rng(1)
    matrix = np.memmap(tmp_path / "matrix", np.float32, "w+", shape=(40_000, 32))
    matrix[:] = chosen.normal(size=matrix.shape)
    vectors = chosen.normal(size=(70, 32)).astype(np.float32)
    nearest = NearestRows(matrix, "cpu")
    scores, rows = nearest.best(vectors, 10)
    wanted_scores, wanted_rows = brute_force(matrix, vectors, 10)
    assert np.array_equal(rows, wanted_rows)
    assert np.allclose(scores, wanted_scores, atol=1e-4)
    nearest._keeps, nearest._kept = False, {}  # as a matrix that is too large to stay on the device
    again = nearest.best(vectors, 10)
    assert np.array_equal(again[0], scores) and np.array_equal(again[1], rows) and not nearest._kept


def test_other_vectors_beside_it_do_not_change_a_vector_s_scores() -> None:
    chosen = np.random.default_rng(2)
    matrix, vectors = (chosen.normal(size=(n, 48)).astype(np.float32) for n in (500, 3 * FILLED))
    nearest = NearestRows(matrix, "cpu")
    scores, rows = nearest.best(vectors, 5)
    for part in (slice(0, 1), slice(5, 12), slice(100, 3 * FILLED)):
        some = nearest.best(vectors[part], 5)
        assert np.array_equal(some[1], rows[part])
        if nearest.batch_free:
            assert np.array_equal(some[0], scores[part])
    assert nearest.best(vectors[:0], 5)[0].shape == (0, 5)


def test_the_first_of_equal_scores_come_first() -> None:
    scores = torch.zeros(2, 1000)
    scores[1, 900], scores[1, 3] = 1.0, -1.0
    values, places = top(scores, 4)
    assert places.tolist() == [[0, 1, 2, 3], [900, 0, 1, 2]]
    assert values.tolist() == [[0.0] * 4, [1.0, 0.0, 0.0, 0.0]]


def test_out_of_memory_takes_fewer_vectors_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    chosen = np.random.default_rng(3)
    matrix, vectors = (chosen.normal(size=(n, 8)).astype(np.float32) for n in (20, 300))
    nearest = NearestRows(matrix, "cpu")
    wanted = nearest.best(vectors, 2)
    whole = nearest._best

    def cramped(given: np.ndarray, count: int) -> Any:
        if len(given) > FILLED:
            raise torch.OutOfMemoryError("out of memory")
        return whole(given, count)

    monkeypatch.setattr(nearest, "_best", cramped)
    got = nearest.best(vectors, 2)
    assert np.array_equal(got[1], wanted[1]) and np.array_equal(got[0], wanted[0])
    assert clock.waited == 3.75  # there was memory for as many before

    def passing(given: np.ndarray, count: int) -> Any:
        if clock.pauses < 6:
            raise torch.OutOfMemoryError("out of memory")
        return whole(given, count)

    nearest = NearestRows(matrix, "cpu")
    whole, clock.pauses = nearest._best, 3
    monkeypatch.setattr(nearest, "_best", passing)
    assert np.array_equal(nearest.best(vectors, 2)[1], wanted[1]) and clock.pauses == 6
    clock.pauses = -100
    monkeypatch.setattr(nearest, "_vectors", 1)
    with pytest.raises(SecbatchError, match="no memory on cpu to compare a text with the 20 rows of the reference"):
        nearest.best(vectors, 2)
