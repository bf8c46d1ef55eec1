"""A run into one Parquet file that was killed at its end, and the one after it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import Counter, install_in
from nights import job, write

from secbatch.reporting import Silent
from secbatch.single_file import run_into_file
from secbatch.store import faults

FILE, REJECTS = Path("rows.parquet"), Path("rows.rejects.parquet")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (7, 10))


def run(**changes: Any) -> None:
    run_into_file(job(**changes), FILE, reporter=Silent())


def killed_before_the_name_of(target: Path, **changes: Any) -> None:
    """Killed when all is computed and the file that becomes `target` is whole, under its name for the time being."""

    def visit(point: str) -> None:
        if point == "file: before its fsync" and target.with_name(f".{target.name}.tmp").exists():
            raise KeyboardInterrupt

    faults.install(visit)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(**changes)
    finally:
        faults.install()


def test_what_a_killed_run_could_not_parse_stands_there_once(counter: Counter) -> None:
    write("a.csv", "n,text", "1,word", "2,more,fields")
    killed_before_the_name_of(REJECTS)
    run()
    assert pd.read_parquet(REJECTS)["line"].tolist() == [3]

    FILE.unlink()
    killed_before_the_name_of(FILE, tasks={"other": {"type": "fill-mask", "model": "fake", "text": "text"}})
    run()
    assert pd.read_parquet(REJECTS)["line"].tolist() == [3]
    assert sorted(path.name for path in Path().iterdir()) == ["in", FILE.name, REJECTS.name]


@pytest.mark.parametrize("target", [FILE, REJECTS])
def test_the_name_that_it_has_left_is_not_written_through(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, target: Path
) -> None:
    """It is another name of a file of the dataset, which was emptied before it was read."""
    write("a.csv", "n,text", "1,word", "2,more,fields")
    killed_before_the_name_of(target)
    write("b.csv", "n,text", *(f"{n},word {n}" for n in range(2, 9)), "9,more,fields")
    monkeypatch.setattr("secbatch.store.merge.PART_ROWS", 3)
    monkeypatch.setattr("secbatch.store.pieces.FULL_BYTES", 1)  # the part that is there stays as it is
    monkeypatch.setattr("secbatch.store.rejects.FLUSH_ROWS", 1)

    run()
    assert sorted(pd.read_parquet(FILE)["n"]) == [str(n) for n in range(1, 9)]
    assert pd.read_parquet(REJECTS)["source"].tolist() == ["in/a.csv", "in/b.csv"]
    assert sorted(path.name for path in Path().iterdir()) == ["in", FILE.name, REJECTS.name]
