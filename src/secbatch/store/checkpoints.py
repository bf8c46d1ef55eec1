"""Checkpoints: rows of one finished shard, kept until a version holds them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from secbatch.store import pieces
from secbatch.store.encoding import SIZED_ROWS, parquet_options, scratch_options, size_in_part
from secbatch.store.filesystem import explain_read, refuses_to_read
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Checkpoint
from secbatch.store.partitions import partition_folders
from secbatch.store.parts import ROW_GROUP_ROWS, footer_sum, is_part_of, write_tables
from secbatch.store.row_keys import REJECTED, DamagedKeysError, RowKeys, StoredKeys, write_keys

ROW_GROUPS, FEWEST_ROWS = 32, 256  # of a checkpoint with several partitions: row groups at most, rows of one at least


def write_checkpoint(
    layout: Layout,
    ledger: Ledger,
    where: tuple[str, int, str],
    table: pa.Table,
    keys: RowKeys,
    computed: np.ndarray,
    partition_by: tuple[str, ...],
    about: Mapping[str, Any],
) -> Checkpoint:
    """Makes the rows durable, those of a partition side by side, and then records them.

    `where`: run, number and key of the shard. `computed`: bool [n]. A redo gives the same files.
    """
    ledger.check_in_place()
    run, shard, key = where
    folders, codes = partition_folders(table, partition_by)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(folders) + 1)).tolist()
    # Two runs may have other rows of the same shard to write (an overwriting one has them all), and so may this run
    # where its input has changed. What was left behind keeps its name and its rows: it is looked up meanwhile.
    name = f"{run}-{shard:06d}-{key[:32]}"
    first, rows, most_rows = table, iter([table]), ROW_GROUP_ROWS
    if len(folders) > 1:
        # Each partition is read alone, and costs the row groups that it has rows in.
        most_rows = max(FEWEST_ROWS, table.num_rows // ROW_GROUPS)
        first, rows = table.take(pa.array(order[:SIZED_ROWS])), _in_order(table, order, most_rows)
    # What is large enough becomes a part as it is; the rest is read once more, when it is merged.
    size = size_in_part(first, table.num_rows)
    options = parquet_options if size >= pieces.FULL_BYTES else scratch_options
    file = layout.checkpoints / f"{name}.parquet"
    write_tables(file, table.schema, rows, "checkpoint", options, most_rows)
    if options is parquet_options:
        size = file.stat().st_size  # that of the part: the next run, which knows it, is to group parts as this one does
    write_keys(file.with_suffix(".keys"), keys.take(order), dict(about), "checkpoint keys", footer=footer_sum(file))
    done = Checkpoint(
        run,
        shard,
        key,
        name,
        table.num_rows,
        int(np.count_nonzero(keys.flags & REJECTED)),
        int(computed.sum()),
        size,
        tuple(zip(folders, bounds[:-1], bounds[1:], strict=True)),
    )
    ledger.add_checkpoint(done)
    return done


def _in_order(table: pa.Table, order: np.ndarray, rows: int) -> Iterator[pa.Table]:
    """The rows of `table` as `order` has them, so many at a time: they do not stand in memory twice."""
    return (table.take(pa.array(order[start : start + rows])) for start in range(0, len(order), rows))


def whole(layout: Layout, checkpoint: Checkpoint) -> bool:
    """Whether its files are there, and belong together; the pages of rows are not looked at."""
    file = layout.checkpoints / f"{checkpoint.part}.parquet"
    try:
        return is_part_of(file, checkpoint_keys(layout, checkpoint).checked())
    except DamagedKeysError:
        return False
    except OSError as error:
        if refuses_to_read(error):
            raise explain_read(error, file) from None
        return False


def checkpoint_keys(layout: Layout, checkpoint: Checkpoint) -> StoredKeys:
    return StoredKeys(layout.checkpoints / f"{checkpoint.part}.keys")
