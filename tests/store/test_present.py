"""The identities of an input, in memory and in files."""

from pathlib import Path

import numpy as np
import pytest
from mapped_memory import needs_smaps, resident

from secbatch.store import present
from secbatch.store.digest_pairs import find_pairs
from secbatch.store.present import KEPT, Present, Winners, place_of


def identities(numbers: np.ndarray) -> np.ndarray:
    """[n, 2] uint64: spread over all files; every third shares its first half with another."""
    spread = (numbers // 3 * 3).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.stack([spread, numbers.astype(np.uint64)], axis=1)


def filled(folder: Path, shards: int, rows: int) -> tuple[Present, dict[int, tuple[int, int]]]:
    """Shards of rows that come again in others; of each number, its last shard and place in it."""
    generator = np.random.default_rng(5)
    collected, last = Present(folder), {}
    for shard in range(shards):
        numbers = generator.choice(rows * 3, rows, replace=False)
        written = generator.integers(0, rows + 1)
        collected.add(shard, identities(numbers[:written]), identities(numbers[written:]))
        places = [*range(written), *range(rows - written)]
        last |= {int(number): (shard, place) for number, place in zip(numbers, places, strict=True)}
    return collected, last


def found(winners: Winners, numbers: list[int]) -> dict[int, tuple[int, int]]:
    places = winners.find(identities(np.array(numbers)))
    entries = winners.entries(places)
    pairs = zip((entries >> np.uint64(32)).tolist(), place_of(entries).tolist(), strict=True)
    return {number: pair for number, place, pair in zip(numbers, places, pairs, strict=True) if place >= 0}


@pytest.mark.parametrize("in_memory", [1 << 20, 99, 100, 350])
def test_the_last_row_of_each_identity_wins(in_memory: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(present, "IN_MEMORY", in_memory)
    monkeypatch.setattr(present, "SPILL_ROWS", 150)
    collected, last = filled(tmp_path, shards=7, rows=100)
    for _ in range(2):  # a run publishes more than once, whether rows came in between or not
        winners = collected.winners()
        assert len(winners.ids) == len(last) and len(winners.lost) == 700 - len(last)
        assert found(winners, list(range(300))) == last


@pytest.mark.parametrize("in_memory", [1 << 20, 99])
def test_rows_that_a_later_one_replaces_are_told_by_shard(
    in_memory: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(present, "IN_MEMORY", in_memory)
    collected, numbers = Present(tmp_path), np.arange(100)
    for shard in range(4):
        written = 30 + 10 * shard
        collected.add(shard, identities(numbers[:written]), identities(numbers[written:]))
    winners = collected.winners()
    for shard in range(4):
        lost = winners.lost_of(shard)
        places = [place_of(lost[(lost & KEPT) == kept]).tolist() for kept in (0, 1)]
        written = 30 + 10 * shard if shard < 3 else 0
        assert [sorted(one) for one in places] == [[*range(written)], [*range(70 - 10 * shard if shard < 3 else 0)]]
    assert winners.lost_in_base(identities(numbers)).tolist() == (numbers >= 30).tolist()


def test_rows_in_files_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last shard filled what waits for the files, so nothing is left to bring there."""
    monkeypatch.setattr(present, "IN_MEMORY", 99)
    collected, last = filled(tmp_path, shards=1, rows=100)
    assert found(collected.winners(), list(range(300))) == last
    collected.add(1, identities(np.array([500])), identities(np.array([], np.int64)))
    assert found(collected.winners(), [500, 501]) == {500: (1, 0)}


@needs_smaps
def test_what_is_looked_up_does_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(present, "IN_MEMORY", 99)
    monkeypatch.setattr(present, "LOOKED_AT", 1 << 13)
    collected, numbers = Present(tmp_path), np.arange(1 << 17)
    collected.add(0, identities(numbers), identities(numbers[:0]))
    winners, most = collected.winners(), 0

    def watched(*asked: np.ndarray) -> np.ndarray:
        nonlocal most
        found = find_pairs(*asked)
        most = max(most, resident(tmp_path))
        return found

    monkeypatch.setattr(present, "find_pairs", watched)
    mixed = np.random.default_rng(0).permutation(numbers)
    assert (place_of(winners.entries(winners.find(identities(mixed)))) == mixed).all()
    assert 0 < most < 24 * len(numbers) / 2
    assert resident(tmp_path) == 0
