"""How often each content has stood in the input: in memory that does not grow with it."""

from pathlib import Path

import numpy as np
import pytest
from mapped_memory import needs_smaps, resident

from secbatch.store import occurrences

SPREAD = np.uint64(0x9E3779B97F4A7C15)


@needs_smaps
def test_digests_on_disk_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(occurrences, "IN_MEMORY", 1 << 14)
    monkeypatch.setattr(occurrences, "BLOCK", 1 << 14)
    counts = occurrences.Occurrences(tmp_path)
    rows, shard = 1 << 20, 1 << 16
    most = 0
    for start in range(0, 2 * rows, shard):  # all of them twice
        digests = np.arange(start, start + shard).astype(np.uint64) % np.uint64(rows) * SPREAD
        assert (counts.count(digests) == start // rows).all()
        most = max(most, resident(tmp_path))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) >= 12 << 20
    assert most < 6 << 20  # pages are at most 2 MiB large
