"""Different digests are counted without keeping them."""

import numpy as np
import pytest

from secbatch.distinct_count import KEPT, DistinctCount


@pytest.mark.parametrize("different", [0, 1, KEPT - 1, KEPT, 200_000])
def test_what_comes_again_counts_once(different: int) -> None:
    digests = np.random.default_rng(1).integers(0, 2**64, different, np.uint64)
    count = DistinctCount()
    for start in range(0, different, 1000):
        count.add(digests[: start + 1000 : 7])
        count.add(digests[start : start + 1000])
    assert count() == (different if different < KEPT else pytest.approx(different, rel=0.05))
