import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import shards_of, source_of, table_of, written

from secbatch.errors import InputError
from secbatch.sources import sentence_rows


def test_documents_become_sentence_rows(tmp_path):
    documents = ["One. Two e.g. here.\n\nThree", None, "  ", "Only one"]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3, 4], "text": documents, "n": [1.5, 2.5, 3.5, 4.5]}), path)
    shards = shards_of(path, rows=4, sentences="text")
    table = table_of(shards)
    assert table.schema.names == ["id", "sentence", "sentence_index", "sentence_start", "sentence_end", "n"]
    assert [str(t) for t in table.schema.types] == ["int64", "string", "int32", "int32", "int32", "double"]
    rows = table.to_pylist()
    assert [(r["id"], r["sentence"], r["sentence_index"]) for r in rows] == [
        *[(1, "One.", 0), (1, "Two e.g. here.", 1), (1, "Three", 2)],
        *[(2, None, None), (3, None, None), (4, "Only one", 0)],
    ]
    for row in rows:
        if row["sentence"] is not None:
            document = documents[row["id"] - 1]
            assert document[row["sentence_start"] : row["sentence_end"]] == row["sentence"]
    assert [n for shard in shards for n in shard.row.to_pylist()] == [1, 1, 1, 2, 3, 4]
    assert [shard.num_rows for shard in shards] == [4, 2]


def test_errors_go_to_all_sentences_and_rejects_once(tmp_path):
    path = written(tmp_path, "t.csv", "n,text\n1,One. Two.\nx,Three. Four.\n1,2,3\n")
    (shard,) = shards_of(path, sentences="text", types={"n": "int64"})
    assert set(shard.errors) == {2, 3}
    assert len(shard.rejects) == 1


def test_parts_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sentence_rows, "PIECE_BYTES", 2000)
    path = written(tmp_path, "t.csv", "id,text\n" + "".join(f"{i},One. Two. Three.\n" for i in range(100)))
    source = source_of(path, sentences="text")
    pieces = list(source.pieces())
    assert len(pieces) > 3
    assert sum(len(piece.rows) for piece in pieces) == 300


def test_column_faults(tmp_path):
    path = written(tmp_path, "t.csv", "id,text,sentence_end\n1,a,2\n")
    with pytest.raises(InputError, match=r"input.sentences: the input has no column 'txt' .did you mean 'text'"):
        source_of(path, sentences="txt")
    with pytest.raises(InputError, match="already has 'sentence_end'"):
        source_of(path, sentences="text")
    path = written(tmp_path, "u.csv", "id,text\n1,a\n")
    with pytest.raises(InputError, match="column 'id' is int64, not text"):
        source_of(path, sentences="id", types={"id": "int64"})
    path = written(tmp_path, "v.csv", "id,sentence\n1,A b. C d.\n")
    assert len(table_of(shards_of(path, sentences="sentence"))) == 2


def test_a_large_column_is_not_repeated_for_a_whole_document_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sentence_rows, "PIECE_BYTES", 100_000)
    document = " ".join(f"This is sentence number {i}." for i in range(300))
    page = "<p>" * 10_000
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [document, "One.", document], "html": [page, "x", page], "n": [1, 2, 3]}), path)
    pieces = list(source_of(path, sentences="text").pieces())
    assert max(piece.table.nbytes for piece in pieces) < 200_000
    rows = pa.concat_tables([piece.table for piece in pieces]).to_pylist()
    assert [(row["n"], row["sentence_index"]) for row in rows] == [
        *[(1, i) for i in range(300)],
        (2, 0),
        *[(3, i) for i in range(300)],
    ]
    assert all(
        document[row["sentence_start"] : row["sentence_end"]] == row["sentence"] for row in rows if row["n"] != 2
    )
    assert {row["html"] for row in rows if row["n"] != 2} == {page}
