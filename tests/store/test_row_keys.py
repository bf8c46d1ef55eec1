"""Row keys as they are written."""

import numpy as np

from secbatch.store.row_keys import _order_of


def test_the_order_of_digests_is_stable() -> None:
    draw = np.random.default_rng(1)
    for top in (3, 40, 1 << 63):
        for rows in (0, 1, 2, 5, 4000):
            halves = draw.integers(0, top, rows, dtype=np.uint64)
            assert _order_of(halves).tolist() == np.argsort(halves, kind="stable").tolist()
