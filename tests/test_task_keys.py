"""Keys of turns after others that got no answer."""

import hashlib
from typing import Any

import numpy as np
import pytest

from secbatch import task_keys


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys of some rows, their conversations, and which of them got no answer."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(0, 40))
    keys = draw.integers(1, 1 << 60, (count, 2)).astype(np.uint64)
    keys[draw.random(count) < 0.3] = 0  # rows that ask nothing
    return keys, np.sort(draw.integers(0, 1 + count // 5, count)), draw.random(count) < draw.random()


@pytest.mark.parametrize("seed", range(40))
def test_each_unanswered_turn_marks_all_turns_after_it(seed: int) -> None:
    keys, numbers, unanswered = drawn(seed)
    wanted = keys.copy()
    for row in range(len(keys)):
        if unanswered[row] and keys[row].any():
            mark = hashlib.blake2b(wanted[row].tobytes(), digest_size=16).digest()
            for later in range(row + 1, len(keys)):
                if numbers[later] == numbers[row] and keys[later].any():
                    wanted[later] ^= np.frombuffer(mark, "<u8")
    before = keys.copy()
    assert (task_keys._after_unanswered(keys, numbers, unanswered) == wanted).all()
    assert (keys == before).all()


def test_of_many_unanswered_turns_each_is_looked_at_a_few_times() -> None:
    looked: list[int] = []

    class Counted(np.ndarray):
        def __getitem__(self, at: Any) -> Any:
            found = super().__getitem__(at)
            looked.append(np.size(found))
            return found

    keys = np.ones((2000, 2), np.uint64).view(Counted)
    task_keys._after_unanswered(keys, np.zeros(len(keys), np.int64), np.ones(len(keys), bool))
    assert len(keys) <= sum(looked) <= 10 * keys.size
