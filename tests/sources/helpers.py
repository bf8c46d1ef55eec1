"""What the tests of the sources share: write a file, read it all, look at the rejects."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from secbatch.job import Input
from secbatch.sources.open import Source, open_source
from secbatch.sources.shard import Reject, Shard


def source_of(path: Path | str, rows: int | Callable[[int], int] = 1000, **spec: Any) -> Source:
    return open_source(Input(path=str(path), **spec), rows if callable(rows) else lambda index: rows)


def shards_of(path: Path | str, rows: int | Callable[[int], int] = 1000, **spec: Any) -> list[Shard]:
    return list(source_of(path, rows, **spec).shards())


def table_of(shards: list[Shard]) -> pa.Table:
    return pa.concat_tables([shard.table for shard in shards])


def rows_of(path: Path | str, **spec: Any) -> list[dict[str, Any]]:
    return table_of(shards_of(path, **spec)).to_pylist()


def rejects_of(shards: list[Shard]) -> list[Reject]:
    return [reject for shard in shards for reject in shard.rejects]


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path
