"""How the columns of a part are laid out."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.store.encoding import SIZED_ROWS, parquet_options, scratch_options, size_in_part

ROWS = 3_000
PREDICTION = pa.struct([pa.field("token", pa.string()), pa.field("score", pa.float32())])


def written(table: pa.Table, path: Path) -> dict[str, tuple[bool, bool]]:
    """Column path -> has a dictionary, has a minimum and maximum."""
    pq.write_table(table, path, **parquet_options(table))
    assert pq.read_table(path).equals(table)
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    return {c.path_in_schema: ("RLE_DICTIONARY" in c.encodings, c.statistics is not None) for c in columns}


def test_values_that_repeat_have_a_dictionary_and_others_have_none(tmp_path: Path) -> None:
    score = [number / ROWS for number in range(ROWS)]
    predictions = [[[{"token": f"word{number % 7}", "score": score[number]}]] for number in range(ROWS)]
    table = pa.table(
        {
            "date": [f"2025-01-{number % 28 + 1:02d}" for number in range(ROWS)],
            "sentence": [f"Sentence number {number}." for number in range(ROWS)],
            "predictions": pa.array(predictions, pa.list_(pa.list_(PREDICTION))),
            "score": pa.array(score, pa.float32()),
            "row": pa.array(range(ROWS), pa.int64()),
        }
    )
    token, inner_score = (f"predictions.list.element.list.element.{name}" for name in ("token", "score"))
    assert written(table, tmp_path / "part.parquet") == {
        "date": (True, True),
        "sentence": (False, True),
        token: (True, False),
        inner_score: (False, False),
        "score": (False, True),
        "row": (False, True),
    }


def test_a_column_with_a_value_of_megabytes_has_no_minimum(tmp_path: Path) -> None:
    """Arrow copies such a value six times to compare it, and then leaves it out: 1.2 GB for one of 200 MB."""
    long = "x" * ((1 << 20) + 1)
    table = pa.table({"long": ["a", long, None], "fine": ["a", long[2:], None], "bytes": [b"", long.encode(), None]})
    told = {name: statistics for name, (_, statistics) in written(table, tmp_path / "part.parquet").items()}
    assert told == {"long": False, "fine": True, "bytes": False}


HARD = {
    "dots in names": pa.table({"a.b": ["x"] * 4, "s": [{"v.w": [{"z": "1"}]}] * 4}),
    "map": pa.table({"m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64()))}),
    "fixed size list": pa.table({"f": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))}),
    "dictionary": pa.table({"d": pa.array(["a", None, "a"]).dictionary_encode()}),
    "only nulls": pa.table({"n": pa.nulls(3, pa.string()), "l": pa.nulls(3, pa.list_(pa.string()))}),
    "several chunks": pa.table({"c": pa.chunked_array([["a"], [], ["a", None]])}),
    "no chunk": pa.table({"c": pa.chunked_array([], pa.string())}),
    "no rows": pa.table({"c": pa.array([], pa.large_list(pa.string()))}),
    "no column that repeats": pa.table({"c": ["a", "b", "c"]}),
}


@pytest.mark.parametrize("table", HARD.values(), ids=HARD)
def test_every_kind_of_column_comes_back_as_it_was(table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "part.parquet", **parquet_options(table))
    back = pq.read_table(tmp_path / "part.parquet")
    assert back.schema.equals(table.schema) and back.to_pylist() == table.to_pylist()


def test_the_same_table_is_laid_out_the_same_way_however_it_is_chunked() -> None:
    values = [f"v{number % 900}" for number in range(ROWS)]
    whole = pa.table({"c": values})
    pieces = pa.table({"c": pa.chunked_array([values[:10], values[10:]])})
    assert parquet_options(whole) == parquet_options(pieces)


def test_the_size_in_a_part_is_known_without_writing_it(tmp_path: Path) -> None:
    rows = 20_000
    table = pa.table({"sentence": [f"Host {n} sent {n * 7919 % rows} bytes." for n in range(rows)], "n": range(rows)})
    pq.write_table(table, tmp_path / "part.parquet", **parquet_options(table))
    pq.write_table(table, tmp_path / "scratch.parquet", **scratch_options(table))
    part, scratch = ((tmp_path / name).stat().st_size for name in ("part.parquet", "scratch.parquet"))
    assert 0.5 < size_in_part(table) / part < 2 < scratch / part
    assert size_in_part(table) == size_in_part(pa.concat_tables([table.slice(0, 7), table.slice(7)]))
    assert pq.read_table(tmp_path / "scratch.parquet").equals(table)
    assert size_in_part(table) == size_in_part(table.slice(0, SIZED_ROWS), table.num_rows)
    assert size_in_part(table.slice(0, 0)) == 0
