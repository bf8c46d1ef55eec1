"""Filters and the search in stored keys, against a plain dictionary."""

from pathlib import Path

import numpy as np
import pytest

from secbatch.store import row_keys
from secbatch.store.filters import Asked, filter_of
from secbatch.store.row_keys import RowKeys, StoredKeys, write_keys


def random_digests(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, count, np.uint64, endpoint=False)


def test_a_filter_holds_all_of_its_digests_and_few_others() -> None:
    held, others = random_digests(50_000, 1), random_digests(50_000, 2)
    words = filter_of([held[:100], held[100:]], len(held))
    assert Asked(held).may_be_in(words).all()
    assert Asked(others).may_be_in(words).mean() < 0.02
    assert words.nbytes * 8 <= 17 * len(held)


def test_an_empty_filter_holds_nothing() -> None:
    assert not Asked(random_digests(100, 3)).may_be_in(filter_of([], 0)).any()


@pytest.mark.parametrize("few", [1, 10**9], ids=["bisected", "all in order"])
@pytest.mark.parametrize("filters", [True, False], ids=["filters", "keys of an earlier release"])
def test_rows_are_found_where_they_stand(
    few: int, filters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few different first halves, so that several rows share one and only the second tells them apart.
    ids = np.stack([random_digests(40, 4)[np.arange(3000) % 40], random_digests(3000, 5)], axis=1)
    done = np.stack([random_digests(3000, 6), random_digests(3000, 7)], axis=1)
    keys = RowKeys(ids, ids, ids[:, 0], np.zeros(3000, np.uint8), {"mask": done})
    path = tmp_path / "part.keys"
    write_keys(path, keys, {}, "part keys")
    stored = StoredKeys(path)
    if not filters:
        stored._arrays = {name: place for name, place in stored._arrays.items() if not name.startswith("filter")}
    monkeypatch.setattr(row_keys, "FEW", few)
    rows = np.random.default_rng(8).permutation(3000)[:700]
    unknown = np.stack([ids[rows, 0], random_digests(700, 9)], axis=1)  # a known first half, another second one
    mixed = np.concatenate([ids[rows], unknown, np.stack([random_digests(50, 10)] * 2, axis=1)])
    assert stored.find_ids(mixed).tolist() == [*rows.tolist(), *[-1] * 750]
    assert stored.find_done("mask", done[rows]).tolist() == rows.tolist()
    assert stored.find_done("mask", mixed).tolist() == [-1] * 1450
    assert stored.find_done("vec", done[rows]).tolist() == [-1] * 700
