"""Digests whose first halves are equal: rows that repeat in an input without ids have such identities."""

from pathlib import Path

import numpy as np
import pytest

from secbatch.row_hash import mixed
from secbatch.store.digest_pairs import find_pairs
from secbatch.store.present import Present
from secbatch.store.row_keys import RowKeys, StoredKeys, write_keys


def repeated(rows: int) -> np.ndarray:
    """[rows, 2] uint64: the identities of one content that stands so often."""
    content = np.full((rows, 2), 0x0123456789ABCDEF, np.uint64)
    return mixed(content, np.arange(rows, dtype=np.uint64))


@pytest.mark.parametrize("firsts", [1, 3, 1000])
def test_pairs_are_found_as_a_dictionary_finds_them(firsts: int) -> None:
    generator = np.random.default_rng(firsts)
    pairs = np.unique(generator.integers(0, (firsts, 200), (500, 2)).astype(np.uint64), axis=0)
    held = pairs[generator.random(len(pairs)) < 0.6]
    wanted = generator.permutation(np.concatenate([pairs, pairs + np.uint64(1 << 40)]))
    places = {tuple(pair): place for place, pair in enumerate(held.tolist())}
    assert find_pairs(held[:, 0], held[:, 1], wanted).tolist() == [
        places.get(tuple(one), -1) for one in wanted.tolist()
    ]
    assert find_pairs(held[:0, 0], held[:0, 1], wanted).tolist() == [-1] * len(wanted)


def test_many_rows_of_one_content_are_found_at_once(tmp_path: Path) -> None:
    """Looked for one after another, these would take minutes."""
    ids = repeated(50_000)
    order = np.random.default_rng(1).permutation(len(ids))
    keys = RowKeys(ids, ids, ids[:, 1], np.zeros(len(ids), np.uint8), {})
    write_keys(tmp_path / "a.keys", keys, {}, "part keys")
    assert np.array_equal(StoredKeys(tmp_path / "a.keys").find_ids(ids[order]), order)
    assert StoredKeys(tmp_path / "a.keys").find_ids(ids[order[:9]]).tolist() == order[:9].tolist()  # bisected
    present = Present(tmp_path / "scratch")
    present.add(0, ids[:0], ids)
    present.add(1, ids[order[:1000]], ids[:0])
    winners = present.winners()
    places = winners.find(ids)
    assert np.array_equal(winners.rest[places], ids[:, 1])
    assert np.flatnonzero(winners.lost_in_base(ids)).tolist() == sorted(order[:1000].tolist())
