import pyarrow as pa

from secbatch.identity import Identities, SeenRows, content_hashes, content_key
from secbatch.sources.shard import Shard


def shard(index: int = 0, source: str = "a.csv", **columns: list) -> Shard:
    table = pa.table(columns)
    n = table.num_rows
    return Shard(index, table, pa.array([source] * n), pa.array(range(1, n + 1), pa.int64()))


def test_equal_rows_stay_apart_over_the_whole_input() -> None:
    identities = Identities((), False)
    first = identities.name(shard(0, text=["x", "y", "x"])).ids.to_pylist()
    second = identities.name(shard(1, text=["x", "z"])).ids.to_pylist()
    names = first + second
    assert len(set(names)) == 5
    assert [name.rsplit("-", 1)[1] for name in names] == ["0", "0", "1", "2", "0"]
    assert len({name.rsplit("-", 1)[0] for name in names}) == 3


def test_a_renamed_file_and_reordered_columns_change_nothing() -> None:
    one = Identities((), False).name(shard(source="a.csv", a=["1", None], b=["x", ""]))
    two = Identities((), False).name(shard(source="renamed.csv", a=["1", None], b=["x", ""]))
    assert one.ids == two.ids
    assert content_key(one) == content_key(two)
    assert content_hashes(pa.table({"b": ["x", ""], "a": ["1", None]})) == content_hashes(one.shard.table)


def test_different_rows_have_different_hashes() -> None:
    rows = pa.table({"a": ["ab", "a", None, "", "null"], "b": ["c", "bc", "", None, "4:null"]})
    assert len(set(content_hashes(rows))) == 5
    nested = pa.table({"v": [[1, 2], [12], None, []]})
    assert len(set(content_hashes(nested))) == 4


def test_id_columns_name_rows_and_the_later_row_wins() -> None:
    identities = Identities(("report", "line"), False)
    first = identities.name(shard(0, report=["r/1", "r", "r/1"], line=[1, 2, 1], text=["old", "b", "new"]))
    assert first.ids.to_pylist() == ["r/2", "r\\/1/1"]
    assert first.shard.table.column("text").to_pylist() == ["b", "new"]
    assert first.superseded == 1
    second = identities.name(shard(1, report=["r"], line=[2], text=["c"]))
    assert second.repeated == ("r/2",)


def test_a_null_id_is_a_rejected_row_not_a_lost_one() -> None:
    named = Identities(("id",), False).name(shard(id=["a", None, None]))
    assert named.shard.num_rows == 3
    assert set(named.shard.errors) == {1, 2}
    assert "Row 2: id column 'id' is null" in named.shard.errors[1]
    assert len(set(named.ids.to_pylist())) == 3


def test_sentence_rows_add_their_index() -> None:
    named = Identities(("doc",), True).name(shard(doc=["d", "d"], sentence_index=[0, 1]))
    assert named.ids.to_pylist() == ["d/0", "d/1"]


def test_seen_rows_finds_what_was_added() -> None:
    seen = SeenRows()
    for start in range(0, 5000, 100):
        seen.add(seen.digests([str(n) for n in range(start, start + 100)]))
    assert seen.contains(seen.digests([str(n) for n in range(5000)])).all()
    assert not seen.contains(seen.digests([f"other {n}" for n in range(5000)])).any()
