from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from secbatch.identity import Identities
from secbatch.row_hash import hash_columns, hash_content, hexadecimal
from secbatch.sources.shard import Shard


def shard(index: int = 0, source: str = "a.csv", **columns: list) -> Shard:
    table = pa.table(columns)
    n = table.num_rows
    return Shard(index, table, pa.array([source] * n), pa.array(range(1, n + 1), pa.int64()))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def test_equal_rows_stay_apart_over_the_whole_input(scratch: Path) -> None:
    identities = Identities((), False, scratch)
    first = identities.name(shard(0, text=["x", "y", "x"])).ids.to_pylist()
    second = identities.name(shard(1, text=["x", "z"])).ids.to_pylist()
    names = first + second
    assert len(set(names)) == 5
    assert [name.rsplit("-", 1)[1] for name in names] == ["0", "0", "1", "2", "0"]
    assert len({name.rsplit("-", 1)[0] for name in names}) == 3


def test_a_renamed_file_and_reordered_columns_change_nothing(scratch: Path) -> None:
    one = Identities((), False, scratch).name(shard(source="a.csv", a=["1", None], b=["x", ""]))
    two = Identities((), False, scratch).name(shard(source="renamed.csv", a=["1", None], b=["x", ""]))
    assert one.ids == two.ids
    assert (one.keys == two.keys).all() and (one.content == two.content).all()
    assert (one.place != two.place).all()
    assert (hash_content(pa.table({"b": ["x", ""], "a": ["1", None]})) == hash_content(one.shard.table)).all()


def test_different_rows_have_different_hashes() -> None:
    rows = pa.table({"a": ["ab", "a", None, "", "null"], "b": ["c", "bc", "", None, "4:null"]})
    assert len(set(hexadecimal(hash_content(rows)))) == 5
    assert len(set(hexadecimal(hash_columns(rows, ["a"])))) == 5
    nested = pa.table({"v": [[1, 2], [12], None, []]})
    assert len(set(hexadecimal(hash_content(nested)))) == 4


def test_id_columns_name_rows_and_the_later_row_wins(scratch: Path) -> None:
    identities = Identities(("report", "line"), False, scratch)
    first = identities.name(shard(0, report=["r/1", "r", "r/1"], line=[1, 2, 1], text=["old", "b", "new"]))
    assert first.ids.to_pylist() == ["r/2", "r\\/1/1"]
    assert first.shard.table.column("text").to_pylist() == ["b", "new"]
    assert first.superseded == 1
    second = identities.name(shard(1, report=["r"], line=[2], text=["c"]))
    assert (second.keys[0] == first.keys[0]).all()


def test_a_null_id_is_a_rejected_row_not_a_lost_one(scratch: Path) -> None:
    named = Identities(("id",), False, scratch).name(shard(id=["a", None, None]))
    assert named.shard.num_rows == 3
    assert set(named.shard.errors) == {1, 2}
    assert "Row 2: id column 'id' is null" in named.shard.errors[1]
    assert len(set(named.ids.to_pylist())) == 3


def test_an_empty_id_is_none_but_one_of_several_columns_may_be_empty(scratch: Path) -> None:
    named = Identities(("id",), False, scratch).name(shard(id=["", "a", " ", "a"]))
    assert (named.superseded, len(set(named.ids.to_pylist())), set(named.shard.errors)) == (1, 3, {0, 1})
    assert "Row 1: id column 'id' is empty; give it a value." in named.shard.errors[0]
    both = Identities(("doc", "line"), False, scratch).name(shard(doc=["d", "", "", None], line=["", "1", "", ""]))
    assert both.ids.to_pylist() == ["d/", "/1", "null@a.csv:3", "null@a.csv:4"]
    assert "'doc' is empty" in both.shard.errors[2] and "'doc' is null" in both.shard.errors[3]
    sentences = Identities(("doc",), True, scratch).name(shard(doc=["", "", "e"], sentence_index=[0, 1, 0]))
    assert (sentences.superseded, set(sentences.shard.errors), sentences.ids[2].as_py()) == (0, {0, 1}, "e/0")


def test_an_id_that_is_spelled_like_a_place_takes_no_rows_place(scratch: Path) -> None:
    spelled = [None, "null@a.csv:1", "\\null@a.csv:1", "a null@", "null@", "\\\\null@"]
    named = Identities(("k",), False, scratch).name(shard(k=spelled))
    names = ["null@a.csv:1", "\\null@a.csv:1", "\\\\null@a.csv:1", "a null@", "\\null@", "\\\\\\null@"]
    assert named.ids.to_pylist() == names and named.superseded == 0
    two = Identities(("k", "l"), False, scratch).name(shard(k=[None, "null@a"], l=["x", "b.csv:1"], source="a/b.csv"))
    assert two.ids.to_pylist() == ["null@a/b.csv:1", "\\null@a/b.csv:1"] and two.superseded == 0
    sentences = {"k": [None, None, "null@a.csv:1"], "sentence_index": [0, 1, 1]}
    assert Identities(("k",), True, scratch).name(shard(**sentences)).superseded == 0


def test_sentence_rows_add_their_index(scratch: Path) -> None:
    named = Identities(("doc",), True, scratch).name(shard(doc=["d", "d"], sentence_index=[0, 1]))
    assert named.ids.to_pylist() == ["d/0", "d/1"]


def test_a_blank_document_has_one_row_with_a_name(scratch: Path) -> None:
    rows = shard(doc=["d", "e", None], sentence_index=pa.array([None, 0, None], pa.int32()))
    named = Identities(("doc",), True, scratch).name(rows)
    assert named.ids.to_pylist() == ["d/0", "e/0", "null@a.csv:3"]
    assert set(named.shard.errors) == {2} and "id column 'doc' is null" in named.shard.errors[2]


def test_digests_are_those_of_the_first_release() -> None:
    # A changed digest would rename every row of every dataset.
    table = pa.table({"text": ["x", None], "n": [1, 2]})
    assert hexadecimal(hash_content(table)) == [
        "f18ab9149cf0b2d16a221c9ccb1e4552",
        "3b46c8efc75a3ae6be556329046143d8",
    ]


def test_occurrences_are_counted_the_same_in_memory_and_on_disk(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secbatch.store import occurrences

    draws = np.random.default_rng(1).integers(0, 3000, 20_000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    seen: dict[int, int] = {}
    expected = []
    for value in draws.tolist():
        expected.append(seen.get(value, 0))
        seen[value] = expected[-1] + 1
    for in_memory in (1 << 20, 500):
        monkeypatch.setattr(occurrences, "IN_MEMORY", in_memory)
        monkeypatch.setattr(occurrences, "BLOCK", 300)
        counts = occurrences.Occurrences(scratch)
        found = [count for start in range(0, len(draws), 700) for count in counts.count(draws[start : start + 700])]
        assert found == expected
    assert list(scratch.iterdir())


def test_a_time_that_python_cannot_hold_changes_no_other_row() -> None:
    times = pa.array([1, 2**62, None, 1], pa.int64()).cast(pa.timestamp("us"))
    for nested in (
        pa.ListArray.from_arrays(pa.array(range(5), pa.int32()), times),
        pa.StructArray.from_arrays([times], names=["a"]),
    ):
        together = hash_content(pa.table({"x": nested}))
        alone = [hash_content(pa.table({"x": nested.take(pa.array([place]))}))[0] for place in range(4)]
        assert together.tolist() == [digest.tolist() for digest in alone]
        assert len({*map(tuple, together.tolist())}) == 3
