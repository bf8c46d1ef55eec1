"""Parts written while the run goes on: those that its last publication will want, if no row is replaced until then.

They get the names that the publication gives them, so it finds them there; what it does not want is swept away with
all that no version holds.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from secbatch.store import faults, pieces
from secbatch.store.assemble import checkpoint_pieces
from secbatch.store.filesystem import explain, make_folder, sync_file
from secbatch.store.ledger_records import Checkpoint
from secbatch.store.merge import Grouping, Merger
from secbatch.store.parts import TableWriter, remove_files
from secbatch.store.pieces import Piece, conformed
from secbatch.value_bytes import read_back_alike
from secbatch.waiting import BoundedQueue, wait_until

WAITING = 1  # checkpoints whose rows are held for the writer, besides the one that it writes
MOST_PARTITIONS = 4  # open at a time: each holds the rows of a row group


@dataclass
class _Partition:
    """The part that grows in one partition."""

    path: Path  # of the file until it has its name
    grouping: Grouping = field(default_factory=Grouping)
    writer: TableWriter | None = None  # of the open group


class PartsAhead:
    """Writes parts on a thread of its own. Use as a context manager; `add` and `finish` raise what went wrong there."""

    def __init__(self, merger: Merger, tasks: dict[str, list[str]]) -> None:
        """`tasks`: of the rows to come: task -> fingerprints."""
        self._merger, self._tasks = merger, tasks
        self._schema = merger.part_schema
        self._alike = all(read_back_alike(field.type) for field in self._schema)  # rows at hand are as good as the file
        self._partitions: dict[str, _Partition] = {}
        self._given_up = False
        self._mutex = threading.Lock()
        self._waiting: BoundedQueue[tuple[Checkpoint, pa.Table | None]] = BoundedQueue(WAITING)
        self._over = False  # whether the thread is through
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._write_all, name="parts", daemon=True)
        self._thread.start()

    def __enter__(self) -> "PartsAhead":
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop()
        with suppress(OSError):  # swept away by the next publication otherwise
            self._give_up()

    @contextmanager
    def paused(self) -> Iterator[set[str]]:
        """Nothing is written meanwhile. Gives the files that are on their way, by their paths under parts/."""
        with self._mutex:
            yield {self._place(partition.path) for partition in self._partitions.values() if partition.writer}

    def add(self, checkpoint: Checkpoint, rows: pa.Table | None) -> None:
        """The next checkpoint; its rows in their order, where they are at hand."""
        if checkpoint.size >= pieces.FULL_BYTES or len(checkpoint.folders) != 1 or not self._alike:
            rows = None  # its file becomes a part as it is, or is read: they are not held meanwhile
        while not self._failures:
            if self._waiting.put((checkpoint, rows), timeout=0.1):
                return
        raise self._failures[0]

    def finish(self) -> None:
        """Returns when all parts are there."""
        self._stop()
        if self._failures:
            raise self._failures[0]
        for partition in self._partitions.values():
            if partition.grouping.open:
                self._end(partition, partition.grouping.rest())
        self._partitions = {}

    def _stop(self) -> None:
        self._waiting.end()
        wait_until(lambda: self._over)
        self._thread.join()

    def _write_all(self) -> None:
        try:
            while (found := self._waiting.get()) is not None:
                with self._mutex:
                    self._write(*found)
                del found  # not held while the next one is waited for
        except BaseException as failure:  # carried to whoever adds or finishes
            self._failures.append(failure)
        finally:
            self._over = True

    def _write(self, checkpoint: Checkpoint, rows: pa.Table | None) -> None:
        if self._given_up:
            return
        found = checkpoint_pieces(self._merger.layout, checkpoint, self._tasks, np.ones(checkpoint.rows, bool))
        if len({*self._partitions, *(piece.folder for piece in found)}) > MOST_PARTITIONS:
            self._give_up()
            return
        for piece in found:
            if piece.folder not in self._partitions:
                number = len(self._partitions)
                # Of this run alone: another one may be at this place, should the output have been moved away.
                name = f".ahead-{self._merger.run}-{number}.tmp"
                path = self._merger.layout.parts / piece.folder / name
                self._partitions[piece.folder] = _Partition(path)
            partition = self._partitions[piece.folder]
            for group in partition.grouping.add(piece):
                self._end(partition, group)
            if partition.grouping.open:
                self._append(partition, piece, rows if len(found) == 1 else None)

    def _append(self, partition: _Partition, piece: Piece, rows: pa.Table | None) -> None:
        try:
            if partition.writer is None:
                make_folder(partition.path.parent)
                faults.reach("part: before the write")
                partition.writer = TableWriter(partition.path, self._schema, "part")
            for table in piece.tables(self._schema) if rows is None else [conformed(rows, self._schema)]:
                partition.writer.add(table)
        except OSError as error:
            raise explain(error, partition.path) from None

    def _end(self, partition: _Partition, group: list[Piece]) -> None:
        """Gives the part of a group that has ended its name and its keys."""
        if partition.writer is None:  # a checkpoint that is a part by itself
            self._merger.part(group)
            return
        try:
            with partition.writer:
                pass
            faults.reach("part: before its fsync")
            sync_file(partition.path)
            faults.reach("part: after its fsync")
        except OSError as error:
            raise explain(error, partition.path) from None
        self._merger.part(group, partition.path)  # where an earlier try has come as far, the file is of no more use
        partition.writer = None

    def _give_up(self) -> None:
        """Lets go of what is not whole."""
        self._given_up = True
        for partition in self._partitions.values():
            if partition.writer:
                partition.writer.abandon()
                remove_files(self._merger.layout.parts, (self._place(partition.path),))
        self._partitions = {}

    def _place(self, path: Path) -> str:
        return path.relative_to(self._merger.layout.parts).as_posix()
