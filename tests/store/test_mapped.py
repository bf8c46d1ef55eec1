"""Files that are mapped, and do not stay in memory."""

from pathlib import Path

import numpy as np
from mapped_memory import needs_smaps, resident

from secbatch.store.mapped import MappedNumbers


@needs_smaps
def test_what_was_looked_at_is_given_back(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 1 << 63, 1 << 18, dtype=np.uint64)
    numbers.tofile(tmp_path / "numbers")
    mapped = MappedNumbers(tmp_path / "numbers", np.uint64)
    assert mapped.values.sum() == numbers.sum()
    assert resident(tmp_path) == numbers.nbytes
    mapped.give_back(1 << 17, 1 << 18)
    assert resident(tmp_path) <= numbers.nbytes // 2  # less where the system's pages are large
    mapped.give_back(0, len(numbers))
    assert resident(tmp_path) == 0
    assert (mapped.values == numbers).all()  # what is looked at comes back


def test_giving_back_nothing(tmp_path: Path) -> None:
    np.arange(3, dtype=np.uint32).tofile(tmp_path / "numbers")
    mapped = MappedNumbers(tmp_path / "numbers", np.uint32)
    mapped.give_back(0, 0)
    (tmp_path / "numbers").unlink()
    assert mapped.values.tolist() == [0, 1, 2]
