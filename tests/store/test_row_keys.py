"""Row keys as they are written."""

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secbatch.store import row_keys
from secbatch.store.filters import Asked
from secbatch.store.row_keys import MAGIC, UNSUMMED, DamagedKeysError, RowKeys, StoredKeys, _order_of, write_keys


def test_the_order_of_digests_is_stable() -> None:
    draw = np.random.default_rng(1)
    for top in (3, 40, 1 << 63):
        for rows in (0, 1, 2, 5, 4000):
            halves = draw.integers(0, top, rows, dtype=np.uint64)
            assert _order_of(halves).tolist() == np.argsort(halves, kind="stable").tolist()


def random_keys(rows: int) -> RowKeys:
    draw = np.random.default_rng(2)
    digests = draw.integers(0, 1 << 63, (3, rows, 2), dtype=np.uint64) * np.uint64(2)
    digests[2, ::7] = 0  # nothing to do
    digests[0, 1::5, 0] = digests[0, ::5, 0][: len(digests[0, 1::5])]  # the same first half
    flags = draw.integers(0, 2, rows).astype(np.uint8)
    return RowKeys(digests[0], digests[1], draw.integers(0, 9, rows, dtype=np.uint64), flags, {"mask": digests[2]})


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_a_file_does_not_depend_on_the_blocks_in_which_it_is_written(
    rows: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = random_keys(rows)
    write_keys(tmp_path / "whole", keys, {}, "part keys")
    whole = (tmp_path / "whole").read_bytes()
    stored = StoredKeys(tmp_path / "whole")
    assert stored.array("by id").tolist() == np.argsort(keys.ids[:, 0], kind="stable").tolist()
    assert stored.array("by done mask").tolist() == np.argsort(keys.done["mask"][:, 0], kind="stable").tolist()
    for name, column in (("ids", keys.ids), ("content", keys.content), ("place", keys.place), ("flags", keys.flags)):
        assert (stored.array(name) == column).all(), name
    monkeypatch.setattr(row_keys, "BLOCK", 37)
    write_keys(tmp_path / "whole", keys, {}, "part keys")
    assert (tmp_path / "whole").read_bytes() == whole


@pytest.mark.parametrize("left", [0, 10, 100, 0.5, -20])
def test_a_file_that_was_cut_is_damaged_also_without_a_checksum(left: float, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_keys(path, random_keys(100), {}, "part keys")
    written = UNSUMMED + path.read_bytes()[len(MAGIC) : -8]  # as earlier releases have written it
    path.write_bytes(written)
    assert StoredKeys(path).checked().read(0, 100).flags.tolist() == random_keys(100).flags.tolist()
    path.write_bytes(written[: int(left * len(written)) if 0 < left < 1 else int(left)])
    with pytest.raises(DamagedKeysError, match="is damaged, or holds no row keys of this release"):
        StoredKeys(path)
    path.write_bytes(UNSUMMED + b"\x7f" * 8 + written[len(UNSUMMED) + 8 :])  # a head of more bytes than there can be
    with pytest.raises(DamagedKeysError):
        StoredKeys(path)


def test_a_file_that_is_cut_once_it_is_open_gives_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_keys(path, random_keys(100), {}, "part keys")
    stored = StoredKeys(path)
    os.truncate(path, 2000)
    with pytest.raises(DamagedKeysError):
        stored.read(50, 100)


def test_an_order_that_names_rows_that_are_not_there_is_damage(tmp_path: Path) -> None:
    path, keys = tmp_path / "keys", random_keys(100)
    write_keys(path, keys, {}, "part keys")
    content = bytearray(UNSUMMED + path.read_bytes()[len(MAGIC) : -8])
    stored = StoredKeys(path)
    start = stored._base + stored._arrays["by id"][2]
    content[start : start + 400] = np.full(100, 1 << 20, np.uint32).tobytes()
    path.write_bytes(content)
    with pytest.raises(DamagedKeysError):
        StoredKeys(path).checked().find_ids(keys.ids)


def test_keys_of_many_rows_are_written_without_a_column_in_memory(tmp_path: Path) -> None:
    rows = 1 << 18
    keys = replace(random_keys(rows), done={})
    tracemalloc.start()
    write_keys(tmp_path / "keys", keys, {}, "part keys")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 18 * rows  # halves of digests, and what bringing an eighth of them into order takes


@pytest.mark.parametrize("repeats", [1, 2000])  # of what is asked for: few are looked up one by one, many in order
def test_digests_are_found_and_those_before_between_and_behind_them_are_not(
    repeats: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asked, "may_be_in", lambda self, words: np.ones(len(self.high), bool))  # filters err at times
    keys = random_keys(1000)
    write_keys(tmp_path / "keys", keys, {}, "part keys")
    stored = StoredKeys(tmp_path / "keys")
    low, high = keys.ids[:, 0].argmin(), keys.ids[:, 0].argmax()
    others = np.array([[0, 1], [keys.ids[5, 0] + np.uint64(1), 1], [2**64 - 1, 1]], np.uint64)
    wanted = np.tile(np.concatenate([keys.ids[[low, 5, high]], others]), (repeats, 1))
    found = stored.find_ids(wanted, Asked(wanted[:, 0]))
    assert found.tolist() == [low, 5, high, -1, -1, -1] * repeats
