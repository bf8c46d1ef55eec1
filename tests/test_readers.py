"""Readers beside a writer that publishes, replaces rows, merges parts, adds a task's column and is killed."""

import importlib.util
import itertools
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kills import JOB, KillServer, write_night

UP = JOB["tasks"]["up"]  # type: ignore[index]


def with_pandas(files: list[str]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(file, partitioning=None) for file in files])


def with_pyarrow(files: list[str]) -> pd.DataFrame:
    return pd.concat([pq.read_table(file, partitioning=None).to_pandas() for file in files])


def with_duckdb(files: list[str]) -> pd.DataFrame:
    import duckdb

    return duckdb.execute("SELECT * FROM read_parquet(?, hive_partitioning=false)", [files]).df()


def with_polars(files: list[str]) -> pd.DataFrame:
    import polars

    return pd.DataFrame(polars.read_parquet(files, hive_partitioning=False).to_dicts())


def look(data: Path, read: Callable[[list[str]], pd.DataFrame]) -> int | None:
    """Reads what the link shows at this moment, checks it, and returns its version; None before the first one."""
    if not data.is_symlink():
        return None
    version = Path(os.path.realpath(data))  # a reader that resolves the link first keeps its version
    files = sorted(str(path) for path in version.rglob("*.parquet"))
    assert len({tuple(pq.read_schema(file).names) for file in files}) == 1
    rows = read(files)
    assert rows["id"].is_unique and len(rows) >= 2
    assert (rows["up"] == rows["text"].str.upper()).all() and (rows["secbatch_status"] == "ok").all()
    for column in set(rows.columns) & {"again"}:
        assert (rows[column] == rows["up"]).all()
    return int(version.name)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        yield Path(place)


def hammer(server: KillServer, folder: Path, nights: int) -> set[int]:
    seen: set[int] = set()
    failures: list[BaseException] = []
    stopped = threading.Event()

    def reader() -> None:
        for read in itertools.cycle(readers()):
            if stopped.is_set() or failures:
                return
            try:
                version = look(folder / "out" / "data", read)
                if version is not None:
                    seen.add(version)
            except BaseException as failure:
                failures.append(failure)

    pq.write_table(pa.table({"id": ["1"]}), folder / "one.parquet")
    for read in readers():  # what a library does at its first file may take longer than a version is kept
        assert len(read([str(folder / "one.parquet")])) == 1
    chance = random.Random(nights)
    thread = threading.Thread(target=reader, daemon=True)
    thread.start()
    try:
        for night in range(nights):
            write_night(folder, night)
            job: dict[str, Any] = {**JOB, "tasks": {"up": UP} if night % 2 else {"up": UP, "again": UP}}
            server.run(folder, f"night{night}", job=job, after=1.0, seed=chance.random())
            server.run(folder, f"night{night}", job=job)
            time.sleep(0.05)
    finally:
        stopped.set()
        thread.join(timeout=30)
    if failures:
        raise failures[0]
    return seen


def readers() -> list[Callable[[list[str]], pd.DataFrame]]:
    """Those that are installed."""
    found: list[Callable[[list[str]], pd.DataFrame]] = [with_pandas, with_pyarrow]
    for name, read in (("duckdb", with_duckdb), ("polars", with_polars)):
        if importlib.util.find_spec(name):
            found.append(read)
    return found


def test_readers_never_see_a_wrong_row(kill_server: KillServer, folder: Path) -> None:
    assert len(hammer(kill_server, folder, 4)) >= 3


@pytest.mark.soak
def test_readers_never_see_a_wrong_row_for_long(kill_server: KillServer, folder: Path) -> None:
    assert len(hammer(kill_server, folder, 60)) >= 30
