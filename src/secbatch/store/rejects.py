"""Dead letters: what could not be parsed, kept as Parquet with its place and the reason."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from secbatch.sources.shard import RAW_LIMIT, Reject
from secbatch.store.durable_files import write_atomically

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("line", pa.int64()),
        ("byte_offset", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),  # bytes that are no UTF-8 stand as \xNN
    ]
)
FLUSH_ROWS = 10_000
FLUSH_BYTES = 64 << 20


class RejectWriter:
    """Collects the rejects of one run and writes them in files of bounded size."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder, self._run = folder, run
        self._pending: list[Reject] = []
        self._pending_bytes = 0
        self._files = 0
        self.count = 0
        self.broken_files: set[str] = set()  # unreadable from some place on
        for stale in folder.glob(f"{run}-*.parquet"):  # a resumed run finds its rejects again
            stale.unlink()

    def add(self, rejects: tuple[Reject, ...]) -> None:
        for reject in rejects:
            self._pending.append(reject)
            self._pending_bytes += len(reject.raw)
            self.count += 1
            if reject.whole_file:
                self.broken_files.add(reject.source)
            if len(self._pending) >= FLUSH_ROWS or self._pending_bytes >= FLUSH_BYTES:
                self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        rows = [
            {
                "source": reject.source,
                "line": reject.line,
                "byte_offset": reject.byte_offset,
                "reason": reject.reason,
                "raw": reject.raw[:RAW_LIMIT].decode("utf-8", "backslashreplace"),
            }
            for reject in self._pending
        ]
        table = pa.Table.from_pylist(rows, SCHEMA)
        write_atomically(
            self._folder / f"{self._run}-{self._files:04d}.parquet",
            lambda path: pq.write_table(table, path, compression="zstd"),
        )
        self._files += 1
        self._pending, self._pending_bytes = [], 0
