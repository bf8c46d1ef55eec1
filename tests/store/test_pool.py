"""What is looked up in many parts is found as it would be in each of them, without asking each for each shard."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mapped_memory import needs_smaps, resident

from secbatch.store import joined_keys, pool
from secbatch.store.pool import Match, Pool, Stored
from secbatch.store.row_keys import REJECTED, RowKeys, StoredKeys, write_keys

ROWS, TEXTS = 900, 200
FINGERPRINTS = {"mask": "m" * 64, "vec": "v" * 64}
COLUMNS = {"mask": ["mask"], "vec": ["vec"]}


def all_keys(draw: np.random.Generator) -> RowKeys:
    """Of rows that have texts in common; with some there is nothing to do, and some are rejected."""
    digests = draw.integers(1, 1 << 63, (4, ROWS, 2), dtype=np.uint64) * np.uint64(2)
    digests[0, 1::50] = digests[0, ::50] + np.array([0, 1], np.uint64)  # the same first half
    texts = draw.integers(0, TEXTS, ROWS)
    done = {"mask": digests[2][texts], "vec": digests[3][texts]}
    done["vec"][::9] = 0
    flags = (draw.random(ROWS) < 0.1).astype(np.uint8) * REJECTED
    return RowKeys(digests[0], digests[1], draw.integers(0, 1 << 63, ROWS, dtype=np.uint64), flags, done)


def in_parts(folder: Path, keys: RowKeys, part: np.ndarray, draw: np.random.Generator, hidden: int = 2) -> list[Stored]:
    """Files of the rows in each `part` (int64 [n]), and of their keys; some are of other columns, or lack a task.

    `hidden`: so many, the last ones, are not shown.
    """
    made, last = [], int(part.max())
    for number in range(last + 1):
        own = keys.take(part == number)
        tasks = ["mask"] if draw.random() < 0.1 else ["mask", "vec"]
        own = RowKeys(own.ids, own.content, own.place, own.flags, {name: own.done[name] for name in tasks})
        path = folder / f"{number}.keys"
        results = {name: pa.array([int(n) if n else None for n in draw.integers(0, 2, len(own))]) for name in COLUMNS}
        pq.write_table(pa.table(results), path.with_suffix(".parquet"))
        write_keys(path, own, {"schema": "old" if draw.random() < 0.1 else "new"}, "part keys")
        of = {name: [FINGERPRINTS[name]] for name in tasks}
        made.append(
            Stored(str(number), path.with_suffix(".parquet"), path, of, len(own), number < int(part.max()) - hidden)
        )
    return made


def matches(folder: Path, parts: list[Stored], keys: RowKeys, shards: int, retry: bool = False) -> list[Match]:
    asked = Pool(
        parts, lambda stored: StoredKeys(stored.keys), lambda *_: True, "new", COLUMNS, folder / "scratch", retry
    )
    return [asked.match(keys.take(rows), FINGERPRINTS) for rows in np.array_split(np.arange(len(keys)), shards)]


@pytest.mark.parametrize("seed", range(6))
def test_joined_keys_tell_what_those_of_the_parts_do(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(seed)
    keys = all_keys(draw)
    parts = in_parts(tmp_path, keys, draw.integers(0, 60, ROWS), draw, hidden=[2, 30, 59][seed % 3])
    changed = draw.random((4, ROWS)) < 0.1
    ids, content, place = keys.ids.copy(), keys.content.copy(), keys.place.copy()
    ids[changed[0]] += np.uint64(2)
    content[changed[0] | changed[1]] += np.uint64(2)
    place[changed[2]] += np.uint64(2)
    done = {
        name: column + np.uint64(2) * changed[3][:, None] * column.any(axis=1)[:, None]
        for name, column in keys.done.items()
    }
    night = RowKeys(ids, content, place, np.zeros(ROWS, np.uint8), done).take(draw.permutation(ROWS))
    monkeypatch.setattr(pool, "JOINED", 1 / ROWS)  # they never are
    apart = matches(tmp_path, parts, night, 15, retry=seed % 2 == 1)
    assert not (tmp_path / "scratch").exists()
    monkeypatch.setattr(pool, "JOINED", ROWS)
    monkeypatch.setattr(joined_keys, "JOINED_ROWS", [100, 10_000][seed // 2 % 2])
    together = matches(tmp_path, parts, night, 15, retry=seed % 2 == 1)
    assert len(list((tmp_path / "scratch").iterdir())) > 3
    for one, other in zip(apart, together, strict=True):
        for name in ("kept", "known", "rejected"):
            assert (getattr(one, name) == getattr(other, name)).all(), name
        for task in FINGERPRINTS:
            assert (one.part[task] == other.part[task]).all() and (one.row[task] == other.row[task]).all(), task
    assert sum(int(match.kept.sum()) for match in together) > ROWS / 4 or seed % 3
    assert sum(int((match.part["mask"] >= 0).sum()) for match in together) > ROWS / 4


def test_a_shard_whose_rows_lie_in_all_parts_does_not_ask_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(1)
    keys = all_keys(draw)
    parts = in_parts(tmp_path, keys, np.arange(ROWS) % 100, np.random.default_rng(3))
    shards, asked = 30, []
    find = StoredKeys.find_ids
    monkeypatch.setattr(StoredKeys, "find_ids", lambda self, *wanted: asked.append(self.path) or find(self, *wanted))
    matches(tmp_path, parts, keys, shards)
    mixed = len(asked)
    assert mixed < 0.5 * shards * len(parts)
    assert any(path.parent.name == "scratch" for path in asked)
    asked.clear()
    monkeypatch.setattr(pool, "JOINED", 1)
    order = np.argsort(np.arange(ROWS) % 100, kind="stable")  # as it lies in the parts: few are asked for each shard
    matches(tmp_path / "sorted", parts, keys.take(order), shards)
    assert len(asked) < mixed and not (tmp_path / "sorted").exists()


def test_parts_of_earlier_versions_are_not_each_asked_for_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = all_keys(np.random.default_rng(1))
    parts = in_parts(tmp_path, keys, np.arange(ROWS) % 100, np.random.default_rng(3), hidden=80)
    done = {name: column + np.uint64(2) * column.any(axis=1)[:, None] for name, column in keys.done.items()}
    new = RowKeys(keys.ids + np.uint64(2), keys.content, keys.place, keys.flags, done)
    shards, asked = 30, []
    find = StoredKeys.find_done
    monkeypatch.setattr(StoredKeys, "find_done", lambda self, *what: asked.append(self.path) or find(self, *what))
    matches(tmp_path, parts, new, shards)
    assert len(asked) < 0.4 * shards * len(FINGERPRINTS) * len(parts)


@needs_smaps
def test_of_the_keys_that_are_looked_at_one_part_is_in_memory(tmp_path: Path) -> None:
    keys = all_keys(np.random.default_rng(1))
    parts = in_parts(tmp_path, keys, np.arange(ROWS) % 6, np.random.default_rng(3), hidden=0)
    sizes = [part.keys.stat().st_size for part in parts]
    asked = Pool(parts, lambda stored: StoredKeys(stored.keys), lambda *_: True, "new", COLUMNS, tmp_path / "scratch")
    asked.match(keys, FINGERPRINTS)
    assert 0 < resident(tmp_path) < sum(sizes) / 2
