"""Items drawn on a thread of their own."""

import threading
import time
from collections.abc import Iterator

import pytest

from secbatch.engines.read_ahead import read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


def test_all_items_come_in_order_and_the_thread_ends() -> None:
    assert list(read_ahead(iter(range(50)), 2, lambda: False, "ahead")) == list(range(50))
    assert list(read_ahead(iter(()), 2, lambda: False, "ahead")) == []
    assert not threads()


def test_it_is_no_further_ahead_than_asked_for() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            yield number

    ahead = read_ahead(items(), 2, lambda: False, "ahead")
    assert next(ahead) == 0
    time.sleep(0.3)
    assert drawn == [0, 1, 2, 3]  # two wait, and one is in hand
    assert list(ahead) == list(range(1, 20))


def test_a_failure_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the disk is gone")

    got = []
    with pytest.raises(ValueError, match="the disk is gone"):
        for item in read_ahead(items(), 4, lambda: False, "ahead"):
            got.append(item)
    assert got == [1] and not threads()


def test_it_ends_when_the_other_side_stops() -> None:
    stop = threading.Event()
    ahead = read_ahead(iter(range(1_000_000)), 2, stop.is_set, "ahead")
    assert next(ahead) == 0
    stop.set()
    assert list(ahead) == [] and not threads()
    closed = read_ahead(iter(range(1_000_000)), 2, lambda: False, "ahead")
    assert next(closed) == 0
    closed.close()  # type: ignore[attr-defined]
    assert not threads()


def test_an_item_is_drawn_when_it_is_wanted() -> None:
    drawn: list[int] = []
    known = threading.Event()

    def items() -> Iterator[int]:
        for number in range(6):
            drawn.append(number)
            yield number

    ahead = read_ahead(items(), 4, lambda: False, "ahead", lambda number: number < 2 or known.is_set())
    assert [next(ahead), next(ahead)] == [0, 1]
    time.sleep(0.2)
    assert drawn == [0, 1]
    known.set()
    assert list(ahead) == [2, 3, 4, 5] and not threads()


def test_it_ends_while_nothing_is_wanted() -> None:
    stop = threading.Event()
    ahead = read_ahead(iter(range(9)), 2, stop.is_set, "ahead", lambda number: number < 1)
    assert next(ahead) == 0
    stop.set()
    assert list(ahead) == [] and not threads()
    closed = read_ahead(iter(range(9)), 2, lambda: False, "ahead", lambda number: number < 1)
    assert next(closed) == 0
    closed.close()
    assert not threads()
