import random

import pyarrow as pa
import pytest
from helpers import rejects_of, shards_of, table_of, written
from hypothesis import given, settings
from hypothesis import strategies as st

from secbatch.errors import InputError
from secbatch.sources import grouped
from secbatch.sources.grouped import group_by_conversation


def grouped_file(path, folder, rows=10, order="turn", **spec):
    spill = folder / "spill"
    spill.mkdir(exist_ok=True)
    shards = list(
        group_by_conversation(iter(shards_of(path, rows=7, **spec)), "thread", order, lambda index: rows, spill)
    )
    assert list(spill.iterdir()) == []
    assert [shard.index for shard in shards] == list(range(len(shards)))
    return shards


def conversations_of(shards):
    """{thread: turns}, and that no thread is in two shards or in two places of one."""
    seen = {}
    for shard in shards:
        here = {}
        last = None
        for row in shard.table.to_pylist():
            thread = row["thread"]
            assert thread not in seen
            assert thread == last or thread not in here
            here.setdefault(thread, []).append(row["turn"])
            last = thread
        seen.update(here)
    return seen


@pytest.mark.parametrize("flush", [100, 1 << 20])  # spilled to disk, and held in memory
def test_conversations_are_whole_and_in_order(tmp_path, monkeypatch, flush):
    monkeypatch.setattr(grouped, "FLUSH_BYTES", flush)
    rows = [(f"t{i}", turn) for i in range(40) for turn in range(1, 13)]
    random.Random(1).shuffle(rows)
    path = written(tmp_path, "t.csv", "thread,turn\n" + "".join(f"{a},{b}\n" for a, b in rows))
    shards = grouped_file(path, tmp_path)
    turns = conversations_of(shards)
    assert len(turns) == 40
    assert all(values == [str(t) for t in range(1, 13)] for values in turns.values())
    assert max(shard.num_rows for shard in shards) <= 24
    lines = {(a, b): i + 1 for i, (a, b) in enumerate(rows)}
    for shard in shards:
        for row, number in zip(shard.table.to_pylist(), shard.row.to_pylist(), strict=True):
            assert lines[row["thread"], int(row["turn"])] == number
        assert set(shard.source.to_pylist()) == {str(path)}
    if flush > 1 << 10:  # what stays in memory keeps the order in which conversations begin
        assert list(turns) == list(dict.fromkeys(thread for thread, _ in rows))
    again = grouped_file(path, tmp_path)
    assert [s.table.to_pylist() for s in again] == [s.table.to_pylist() for s in shards]


def test_turns_as_text_numbers_and_missing(tmp_path):
    path = written(
        tmp_path,
        "t.csv",
        "thread,turn,n\na,10,1\nb,2024-01-02,2\na,9,3\nb,2024-01-01,4\na,,5\nc,x,6\nc,10,7\nc,9,8\na,9.5,9\na,-1,10\n",
    )
    rows = table_of(grouped_file(path, tmp_path, rows=100)).to_pylist()
    order = {}
    for row in rows:
        order.setdefault(row["thread"], []).append(row["n"])
    assert order == {"a": ["10", "3", "9", "1", "5"], "b": ["4", "2"], "c": ["7", "8", "6"]}


def test_typed_turns_and_equal_ones(tmp_path):
    path = written(
        tmp_path, "t.csv", "thread,turn,n\n" + "".join(f"a,{t},{i}\n" for i, t in enumerate([3, 1, 3, 2, 1]))
    )
    rows = table_of(grouped_file(path, tmp_path, types={"turn": "int64"})).to_pylist()
    assert [row["n"] for row in rows] == ["1", "4", "3", "0", "2"]


def test_rows_without_a_conversation_stand_alone(tmp_path):
    path = written(tmp_path, "t.csv", "thread,turn\n" + ",1\n" * 30 + "a,2\na,1\n")
    shards = grouped_file(path, tmp_path, rows=5)
    assert sum(shard.num_rows for shard in shards) == 32
    assert max(shard.num_rows for shard in shards) <= 7
    assert sorted(n for shard in shards for n in shard.row.to_pylist()) == list(range(1, 33))


def test_a_long_conversation_is_one_shard(tmp_path):
    path = written(tmp_path, "t.csv", "thread,turn\n" + "".join(f"a,{i}\nb{i},1\n" for i in range(50)))
    shards = grouped_file(path, tmp_path, rows=5)
    assert len(conversations_of(shards)["a"]) == 50


@pytest.mark.parametrize("flush", [1, 500, 1000, 1500, 2000])
def test_a_conversation_is_whole_wherever_some_of_it_waits(tmp_path, monkeypatch, flush):
    """On disk, in memory, or partly in each while the input is read."""
    monkeypatch.setattr(grouped, "FLUSH_BYTES", flush)
    path = written(tmp_path, "t.csv", "thread,turn\n" + "".join(f"a,{i}\nb{i},1\n" for i in range(20)))
    shards = grouped_file(path, tmp_path, rows=5)
    assert len(conversations_of(shards)["a"]) == 20 and sum(shard.num_rows for shard in shards) == 40


def test_errors_and_rejects_travel(tmp_path):
    path = written(tmp_path, "t.csv", "thread,turn,n\nb,1,1\na,2,x\nbad\na,1,3\n")
    shards = grouped_file(path, tmp_path, types={"n": "int64"})
    assert len(rejects_of(shards)) == 1
    found = {
        (shard.table["thread"][place].as_py(), shard.table["turn"][place].as_py())
        for shard in shards
        for place in shard.errors
    }
    assert found == {("a", "2")}


def test_nested_and_dictionary_columns_survive_the_disk(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(grouped, "FLUSH_BYTES", 100)
    table = pa.table(
        {
            "thread": pa.array([f"t{i % 3}" for i in range(60)]).dictionary_encode(),
            "turn": pa.array(list(range(60))),
            "x": [{"a": [i]} for i in range(60)],
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    result = table_of(grouped_file(path, tmp_path))
    assert result.schema.types[2] == table.schema.types[2]
    assert sorted(result.to_pylist(), key=lambda row: row["turn"]) == table.to_pylist()


def test_missing_columns(tmp_path):
    path = written(tmp_path, "t.csv", "thread,turn\na,1\n")
    with pytest.raises(InputError, match=r"conversation.order: the input has no column 'tun'.*'turn'"):
        grouped_file(path, tmp_path, order="tun")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), st.sampled_from(["1", "2", "10", "x", ""])), max_size=25)
)
def test_a_row_that_goes_in_comes_out(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("g")
    path = written(folder, "t.csv", "thread,turn,n\n" + "".join(f"{a},{b},{i}\n" for i, (a, b) in enumerate(rows)))
    shards = grouped_file(path, folder, rows=4)
    numbers = sorted(int(row["n"]) for shard in shards for row in shard.table.to_pylist())
    assert numbers == list(range(len(rows)))


def test_columns_that_have_no_order(tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"thread": ["a"], "turn": [{"x": 1}]}), path)
    with pytest.raises(InputError, match=r"conversation.order: a column of type struct"):
        grouped_file(path, tmp_path)
    pq.write_table(pa.table({"thread": [{"x": 1}], "turn": [1]}), path)
    with pytest.raises(InputError, match=r"conversation.id: a column of type struct"):
        grouped_file(path, tmp_path)
