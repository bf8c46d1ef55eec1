"""The shards of a run: the input's, with conversations whole, up to a limit, until the run is told to stop."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from secbatch.errors import Interrupted, JobError
from secbatch.identity import Identities
from secbatch.later_rows import LaterRows
from secbatch.preparing import Setup
from secbatch.sources.shard import Shard
from secbatch.store.filesystem import make_folder
from secbatch.task_specs import Chat


def input_shards(
    setup: Setup, spill: Path, limit: int | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Shard]:
    """The shards of the first `limit` rows (None: of all); raises Interrupted between two once `stopped()`.

    Where a task holds conversations, these are whole and in order (grouped under `spill`), without the rows that a
    later row of the input with their id replaces: the order of the shards no longer tells which of two is the later.
    """
    return _limited(_grouped(setup, spill, stopped), limit)


def _until(shards: Iterator[Shard], stopped: Callable[[], bool]) -> Iterator[Shard]:
    for shard in shards:
        if stopped():
            raise Interrupted("Interrupted while reading the input")
        yield shard


def _grouped(setup: Setup, spill: Path, stopped: Callable[[], bool]) -> Iterator[Shard]:
    chats = {name: spec for name, spec in setup.job.tasks.items() if isinstance(spec, Chat) and spec.conversation}
    groupings = {(chat.conversation.id, chat.conversation.order) for chat in chats.values() if chat.conversation}
    if not groupings:
        return _until(setup.source.shards(), stopped)
    if len(groupings) > 1:
        raise JobError("Two chat tasks group conversations by different columns; use one grouping in a job.")
    from secbatch.sources.grouped import group_by_conversation

    shutil.rmtree(spill, ignore_errors=True)  # what a killed run has left
    make_folder(spill)
    name, order = groupings.pop()
    key = f"tasks.{next(iter(chats))}.conversation"
    shards = _until(setup.source.shards(), stopped)
    if not setup.job.input.id:
        return group_by_conversation(shards, name, order, setup.shard_rows, spill, key=key)
    later = LaterRows(Identities.of(setup.job, spill), spill / "identities")
    return group_by_conversation(later.noted(shards), name, order, setup.shard_rows, spill, later.superseded, key)


def _limited(shards: Iterator[Shard], limit: int | None) -> Iterator[Shard]:
    left = limit
    for shard in shards:
        if left is not None and shard.num_rows > left:
            shard = _head(shard, left)
        yield shard
        if left is not None:
            left -= shard.num_rows
            if left <= 0:
                return


def _head(shard: Shard, rows: int) -> Shard:
    errors = {position: text for position, text in shard.errors.items() if position < rows}
    table, source, row = shard.table.slice(0, rows), shard.source.slice(0, rows), shard.row.slice(0, rows)
    return Shard(shard.index, table, source, row, errors, shard.rejects, shard.superseded)
