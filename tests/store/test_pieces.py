"""Tables of earlier runs in the columns of this one."""

import time

import pyarrow as pa

from secbatch.store.pieces import conformed


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
