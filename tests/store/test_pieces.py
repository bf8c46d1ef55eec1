"""Tables of earlier runs in the columns of this one."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.errors import UnfitOutputError
from secbatch.store.pieces import ROW, SOURCE, Moved, Piece, conformed
from secbatch.store.row_keys import REMOVED, RowKeys, StoredKeys, write_keys


def test_ten_times_the_columns_take_about_ten_times_as_long() -> None:
    def seconds(width: int) -> float:
        table = pa.table({f"c{place}": ["x"] for place in range(width)})
        schema = pa.schema([pa.field("new", pa.int64()), *reversed(table.schema)])
        start = time.process_time()
        made = conformed(table, schema)
        took = time.process_time() - start
        assert made.schema.equals(schema) and made.column(0).null_count == 1 and made.column(1).to_pylist() == ["x"]
        return took

    few = min(seconds(2_000) for _ in range(3))
    assert min(seconds(20_000) for _ in range(2)) < 40 * few


@pytest.mark.parametrize("values", [["seven"], [[7]], [{"a": 7}]])
def test_columns_that_do_not_convert_are_a_sentence(values: list[Any]) -> None:
    with pytest.raises(UnfitOutputError, match=r"Column 'n' is int64 now but .* in rows kept from earlier runs"):
        conformed(pa.table({"n": values}), pa.schema([("n", pa.int64())]))


def test_rows_are_marked_whatever_row_group_they_are_in(tmp_path: Path) -> None:
    statuses = ["ok", "ok", "rejected", "ok", "ok", "rejected"]
    table = pa.table({"secbatch_status": statuses, ROW: range(6)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    digests = np.arange(12, dtype=np.uint64).reshape(6, 2)
    keys = RowKeys(digests, digests, np.arange(6, dtype=np.uint64), np.array([0, 0, 1, 0, 0, 1], np.uint8), {})
    write_keys(tmp_path / "keys", keys, {}, "part keys")
    stored, marked = StoredKeys(tmp_path / "keys"), np.array([0, 0, 1, 0, 1], bool)  # the first row is no part of it
    piece = Piece("p", tmp_path / "rows.parquet", stored, {}, "", 1, 6, 0, marked=marked)
    made = pa.concat_tables(piece.tables(table.schema))
    assert made.column("secbatch_status").to_pylist() == ["ok", "rejected", "removed", "ok", "removed"]
    assert np.concatenate(list(piece.key_blocks("flags"))).tolist() == [0, 1, REMOVED, 0, 1 | REMOVED]
    assert piece.identity() != replace(piece, marked=None).identity()  # a part of either has a name of its own


def test_rows_that_stand_for_others_have_their_places_whatever_row_group_they_are_in(tmp_path: Path) -> None:
    table = pa.table({SOURCE: ["a"] * 12, ROW: range(12), "text": [f"text {row}" for row in range(12)]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=3)
    digests = np.arange(24, dtype=np.uint64).reshape(12, 2)
    keys = RowKeys(digests, digests, np.arange(12, dtype=np.uint64), np.zeros(12, np.uint8), {})
    write_keys(tmp_path / "keys", keys, {}, "part keys")
    rows = np.array([0, 3, 4, 8])  # counted from the second of the file
    moved = Moved(rows, pa.array(["b"] * 4), pa.array([50, 51, 52, 53]), np.array([90, 91, 92, 93], np.uint64))
    piece = Piece("p", tmp_path / "rows.parquet", StoredKeys(tmp_path / "keys"), {}, "", 1, 12, 0, moved=moved)
    made = pa.concat_tables(piece.tables(table.schema))
    assert made.column(ROW).to_pylist() == [50, 2, 3, 51, 52, 6, 7, 8, 53, 10, 11]
    assert "".join(made.column(SOURCE).to_pylist()) == "baabbaaabaa"
    assert made.column("text").to_pylist() == [f"text {row}" for row in range(1, 12)]
    assert np.concatenate(list(piece.key_blocks("place"))).tolist() == [90, 2, 3, 91, 92, 6, 7, 8, 93, 10, 11]
