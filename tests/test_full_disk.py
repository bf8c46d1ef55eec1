"""A disk that really is full: a small tmpfs, where the machine lets tests mount one."""

import contextlib
import os
import random
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from fake_task import Counter, install

from secbatch.errors import OutputError
from secbatch.job import Job
from secbatch.runner import run_job


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let tests mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (200,))
    return install(monkeypatch)


def test_a_full_disk_is_said_and_nothing_is_lost(small_disk: Path, tmp_path: Path, counter: Counter) -> None:
    letters = random.Random(1)
    lines = ["".join(letters.choices(string.ascii_letters, k=100)) for _ in range(6000)]
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(lines) + "\n")
    values = {
        "name": "full",
        "input": {"path": str(tmp_path / "in.csv")},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
        "output": {"path": str(small_disk / "out")},
    }
    with pytest.raises(OutputError, match="full"):
        run_job(Job.model_validate(values))
    seen = pd.read_parquet(small_disk / "out" / "data")["text"].tolist()
    assert seen == lines[: len(seen)] and seen
    done = counter.rows
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    result = run_job(Job.model_validate(values))
    assert pd.read_parquet(small_disk / "out" / "data")["text"].tolist() == lines
    assert result.reused > 0
    assert counter.rows < done + len(lines)


@pytest.mark.parametrize("pages", [0, 4])  # of 4 KiB that are left: none for the lock's note, or for the ledger's index
def test_a_disk_that_is_full_from_the_start_is_said_by_name(
    small_disk: Path, tmp_path: Path, counter: Counter, pages: int
) -> None:
    (tmp_path / "in.csv").write_text("text\na\n")
    with (small_disk / "other").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(small_disk / "other", (small_disk / "other").stat().st_size - 4096 * pages)
    values = {
        "name": "full",
        "input": {"path": str(tmp_path / "in.csv")},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
        "output": {"path": str(small_disk / "out")},
    }
    with pytest.raises(OutputError, match=r"free space .*and run again"):
        run_job(Job.model_validate(values))
    (small_disk / "other").unlink()
    assert run_job(Job.model_validate(values)).enriched == 1
