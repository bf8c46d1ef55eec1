"""Calls side by side, results one after another."""

import threading
import time

import pytest

from secbatch.engines.in_order import InOrder


def test_results_are_taken_in_order_on_the_callers_thread_and_few_calls_wait() -> None:
    running, most, taken = [0], [0], []
    mutex = threading.Lock()

    def make(number: int) -> int:
        with mutex:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.03 if number % 2 == 0 else 0.001)  # the second is done first
        with mutex:
            running[0] -= 1
        return number

    def take(number: int) -> None:
        assert threading.current_thread() is here
        taken.append(number)

    here = threading.current_thread()
    with InOrder[int](2) as calls:
        for number in range(12):
            calls.give(lambda number=number: make(number), take)  # type: ignore[misc]
            assert len(taken) >= number - 1
        calls.finish()
    assert taken == list(range(12)) and most[0] == 2


def test_what_is_made_can_be_taken_before_the_next_comes() -> None:
    taken: list[int] = []
    with InOrder[int](2) as calls:
        calls.give(lambda: 1, taken.append)
        deadline = time.monotonic() + 10
        while not taken and time.monotonic() < deadline:
            calls.take_what_is_there()
    assert taken == [1]


def test_what_a_call_raises_comes_in_its_turn_and_what_follows_is_not_taken() -> None:
    taken: list[int] = []

    def broken() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), InOrder[int](2) as calls:
        calls.give(lambda: 1, taken.append)
        calls.give(broken, taken.append)
        calls.give(lambda: 3, taken.append)
        calls.finish()
    assert taken == [1]
