import gzip
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import rejects_of, shards_of, source_of, table_of, written

from secbatch.errors import InputChangedError, InputError, SourceLostError
from secbatch.job import Input
from secbatch.sources import slicing
from secbatch.sources.open import open_source


def test_columns_of_several_csv_files(tmp_path):
    written(tmp_path, "a.csv", "id,text\n1,a\n")
    written(tmp_path, "b.csv", "text;id\nb;2\n")
    source = source_of(tmp_path)
    assert table_of(list(source.shards())).to_pylist() == [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}]
    assert len(source.notices) == 2
    written(tmp_path, "c.csv", "id,text,more\n3,c,d\n")
    with pytest.raises(InputError, match=r"c\.csv has the extra column 'more', compared with .*a\.csv"):
        source_of(tmp_path)
    written(tmp_path, "c.csv", "id\n3\n")
    with pytest.raises(InputError, match=r"c\.csv lacks column 'text'"):
        source_of(tmp_path)


def test_an_empty_file_among_others_is_a_reject(tmp_path):
    written(tmp_path, "a.csv", "id,text\n1,a\n")
    written(tmp_path, "b.csv", "")
    source = source_of(tmp_path)
    shards = list(source.shards())
    assert table_of(shards).num_rows == 1
    (reject,) = rejects_of(shards)
    assert reject.whole_file and reject.source.endswith("b.csv")
    assert any("b.csv is empty" in notice for notice in source.notices)


@pytest.mark.parametrize("name", ["csv", "csv.gz", "jsonl"])
def test_nothing_is_held_of_files_that_are_through(tmp_path, name):
    text = "text\n" + "a\n" * 100_000 if name.startswith("csv") else '{"text": "a"}\n' * 20_000
    packed = gzip.compress(text.encode()) if name.endswith("gz") else text
    for number in range(20):
        written(tmp_path, f"{number}.{name}", packed)
    source = source_of(tmp_path, rows=100_000)
    before = pa.total_allocated_bytes()
    for _ in source.shards():
        pass
    assert source.bytes_read == source.bytes_total
    del _
    assert pa.total_allocated_bytes() - before < 2 * len(text)


def test_a_file_that_vanishes(tmp_path):
    path = written(tmp_path, "a.csv", "id,text\n1,a\n")
    source = source_of(path)
    path.unlink()
    with pytest.raises(InputChangedError, match=r"a\.csv' is gone") as raised:
        list(source.shards())
    assert raised.value.exit_code == 1  # a scheduler that tries again is right


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_a_file_that_became_something_else_is_not_waited_for(tmp_path, ending, what):
    path = tmp_path / f"a.{ending}"
    texts = {"csv": "text\na\n", "jsonl": '{"text": "a"}\n'}
    if ending == "parquet":
        pq.write_table(pa.table({"text": ["a"]}), path)
    else:
        path.write_text(texts[ending])
    source = source_of(path)
    path.unlink()
    match what:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/null")
        case _:
            path.mkdir()
    with pytest.raises(InputChangedError, match=rf"a\.{ending}' is no file any more, .*; run again"):
        list(source.shards())


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("what", ["link", "folder"])
def test_a_path_that_leads_nowhere_now_says_nothing_of_the_file(tmp_path, ending, what):
    path = written(tmp_path, f"in/a.{ending}", "text\na\n" if ending == "csv" else '{"text": "a"}\n')
    if ending == "parquet":
        pq.write_table(pa.table({"text": ["a"]}), path)
    source = source_of(path)
    path.unlink()
    if what == "link":
        path.symlink_to(path.name)
    else:
        path.parent.rmdir()
        path.parent.write_text("")
    with pytest.raises(SourceLostError, match=rf"a\.{ending}' cannot be read: "):
        list(source.shards())


def test_shards_are_the_same_every_time(tmp_path):
    written(tmp_path, "a.csv", "id,text\n" + "".join(f"{i},row {i}\n" for i in range(1000)))
    written(tmp_path, "b.csv", "id,text\n" + "".join(f"{i},row {i}\n" for i in range(100)) + "bad\n")
    source = source_of(tmp_path, rows=lambda index: 10 if index == 0 else 300)
    first = list(source.shards())
    second = list(source.shards())
    assert [shard.num_rows for shard in first] == [10, 300, 300, 300, 190]
    assert [shard.index for shard in first] == [0, 1, 2, 3, 4]
    for one, other in zip(first, second, strict=True):
        assert one.table.equals(other.table)
        assert one.row.equals(other.row)
        assert one.source.equals(other.source)
        assert one.rejects == other.rejects
    assert first[-1].source.to_pylist().count(f"{tmp_path}/b.csv") == 100
    assert source.bytes_read == source.bytes_total


def test_large_rows_end_a_shard_early(tmp_path, monkeypatch):
    monkeypatch.setattr(slicing, "SHARD_BYTES", 1 << 20)
    path = written(tmp_path, "t.csv", "id,text\n" + "".join(f"{i},{'x' * 10_000}\n" for i in range(2000)))
    shards = shards_of(path, rows=100_000)
    assert len(shards) > 2
    assert sum(shard.num_rows for shard in shards) == 2000


def test_a_flood_of_rejects_does_not_pile_up(tmp_path):
    path = written(tmp_path, "t.csv", "id,text\n" + "bad\n" * 30_000 + "1,a\n")
    shards = shards_of(path, rows=1_000_000)
    assert max(len(shard.rejects) for shard in shards) < 20_000
    assert len(rejects_of(shards)) == 30_000
    assert sum(shard.num_rows for shard in shards) == 1


def test_reading_starts_before_the_file_is_read(tmp_path):
    path = written(tmp_path, "t.csv", "id,text\n" + "".join(f"{i},some text {i}\n" for i in range(800_000)))
    source = source_of(path, rows=1000)
    shards = source.shards()
    assert next(shards).num_rows == 1000
    assert 0 < source.bytes_read < source.bytes_total / 2


def test_a_shard_of_large_rows_ends_inside_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(slicing, "SHARD_BYTES", 10_000)
    path = written(tmp_path, "t.csv", "a,b\n" + "".join(f"{i},{'x' * 1000}\n" for i in range(50)))
    shards = shards_of(path)
    assert table_of(shards).column("a").to_pylist() == [str(i) for i in range(50)]
    assert {shard.num_rows for shard in shards[:-1]} == {10}


def test_a_text_that_a_dictionary_holds_once_counts_in_each_row(tmp_path, monkeypatch):
    """Texts are written out for each row later on, and Arrow holds no more than 2 GiB of them together."""
    monkeypatch.setattr(slicing, "SHARD_BYTES", 10_000)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int32()), ["x" * 1000])
    pq.write_table(pa.table({"text": texts, "n": range(50)}), tmp_path / "t.parquet")
    shards = shards_of(tmp_path / "t.parquet")
    assert table_of(shards).column("n").to_pylist() == list(range(50))
    assert {shard.num_rows for shard in shards[:-1]} == {10}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_progress_counts_the_rows_given_out_and_not_those_read_ahead(tmp_path: Path, ending: str) -> None:
    """A bar that counts what was decoded in one go would stand at half after the first of a thousand shards."""
    table = pa.table({"text": [f"Document {number}. It has two sentences." for number in range(1000)]})
    path = tmp_path / f"in.{ending}"
    if ending == "csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        pq.write_table(table, path)
    source = open_source(Input(path=str(path), sentences="text"), lambda index: 100)
    given = 0
    for shard in source.shards():
        given += shard.num_rows
        assert source.rows_given == given
        assert abs(source.bytes_given / source.bytes_total - given / 2000) < 0.02
    assert given == 2000 and source.bytes_given == source.bytes_total


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_with_other_columns_than_when_it_was_listed_is_not_misread(tmp_path, ending):
    def put(**columns):
        pd.DataFrame(columns).pipe(
            lambda frame: frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
        )

    path = tmp_path / f"a.{ending}"
    put(id=["1"], text=["a"])
    source = source_of(path)
    put(id=["1", "2"], text=["b", "c"])  # other rows are fine
    assert table_of(list(source.shards())).column("text").to_pylist() == ["b", "c"]
    put(text=["b"], id=["1"])
    with pytest.raises(InputChangedError, match="than when the input was listed; run again"):
        list(source.shards())
    path.unlink()
    with pytest.raises(InputChangedError, match="is gone since"):
        list(source.shards())


@pytest.mark.parametrize(("ending", "header"), [("csv", "text\n"), ("jsonl", "")])
def test_a_file_that_becomes_shorter_while_it_is_read_breaks_off(tmp_path, ending, header):
    line = f'{{"text": "{"x" * 100}"}}\n' if ending == "jsonl" else "x" * 100 + "\n"
    path = written(tmp_path, f"a.{ending}", header + line * 100_000)
    shards = source_of(path, rows=100).shards()
    first = next(shards)
    os.truncate(path, 1000)  # as `copytruncate` of logrotate does
    rest = list(shards)
    rejects = [reject for shard in rest for reject in shard.rejects]
    assert 0 < sum(shard.num_rows for shard in (first, *rest)) < 100_000
    assert len(rejects) == 1 and rejects[0].whole_file and "became shorter while it was read" in rejects[0].reason


@pytest.mark.parametrize(("ending", "header", "left"), [("csv", "text\n", 5), ("jsonl", "", 0)])
def test_so_does_one_that_became_shorter_before_it_was_opened(tmp_path, ending, header, left):
    """What was cut off while other files were read is no removal either."""
    path = written(tmp_path, f"a.{ending}", header + '{"text": "x"}\n' * 100)
    source = source_of(path, rows=100)
    os.truncate(path, left)
    rejects = [reject for shard in source.shards() for reject in shard.rejects]
    assert len(rejects) == 1 and rejects[0].whole_file and "became shorter" in rejects[0].reason


def test_a_thousand_files_without_rows_are_one_line(tmp_path):
    for number in range(5):
        written(tmp_path, f"{number}.csv", "text\na\n" if number == 4 else "text\n" if number % 2 else "")
    notices = source_of(tmp_path).notices
    assert [notice for notice in notices if "header only" in notice] == [
        f"{tmp_path}/1.csv and 1 more hold the header only, no rows"
    ]
    (empty,) = (notice for notice in notices if "is empty" in notice)
    assert empty.startswith(f"{tmp_path}/0.csv and 1 more: is empty")
