"""Rows that stand for equal ones whose file is gone: how much is looked through to find them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_task import Counter, install_in
from nights import done, rows, write

from secbatch.store import stand_ins

PARTITIONS, ROWS = 40, 400
OUTPUT = {"path": "out", "partition_by": ["day"], "removed": "keep", "max_removed": "100%"}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (20,))


class Counting:
    """numpy, which counts the values that are sorted or looked through."""

    def __init__(self) -> None:
        self.values = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if name not in ("argsort", "flatnonzero", "isin", "lexsort", "unique"):
            return function

        def counted(*given: Any, **options: Any) -> Any:
            arrays = given[0] if name == "lexsort" else given
            self.values += sum(len(one) for one in arrays)
            return function(*given, **options)

        return counted


def test_not_all_contents_are_looked_through_for_each_part_and_each_checkpoint(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"text {number},{number % PARTITIONS}" for number in range(ROWS)]
    write("a.csv", "text,day", *lines)
    write("b.csv", "text,day", *lines)
    assert done(counter, output=OUTPUT) == 2 * ROWS
    Path("in/a.csv").unlink()
    counting = Counting()
    monkeypatch.setattr(stand_ins, "np", counting)
    assert done(counter, output=OUTPUT) == 0
    assert len(rows()) == 2 * ROWS
    # each row 24 times; all contents for each part and each checkpoint are 41,200 more
    assert ROWS < counting.values < 30 * ROWS
