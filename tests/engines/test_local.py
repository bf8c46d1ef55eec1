import _thread
import threading
import time
import weakref
from collections.abc import Generator

import pytest
from interrupted_anywhere import interrupted_at_each_step

from secbatch.engines.local import LocalEngine
from secbatch.engines.read_ahead import read_ahead
from secbatch.errors import Interrupted


def test_order_is_kept_and_stages_have_their_threads() -> None:
    done: list[tuple[int, str]] = []
    threads: set[str] = set()

    def numbers() -> Generator[int, None, None]:
        threads.add(threading.current_thread().name)
        yield from range(50)

    def finish(item: int) -> None:
        done.append((item, threading.current_thread().name))

    LocalEngine(numbers(), lambda item: item * 2, finish).run()
    assert [item for item, _ in done] == [n * 2 for n in range(50)]
    assert threads == {"encode"}
    assert {name for _, name in done} == {"finish"}


@pytest.mark.parametrize("stage", ["encode", "compute", "finish"])
def test_a_failure_in_any_stage_reaches_the_caller(stage: str) -> None:
    def broken(item: int) -> int:
        if item == 3:
            raise ValueError(stage)
        return item

    def numbers() -> Generator[int, None, None]:
        for n in range(1000):
            yield broken(n) if stage == "encode" else n

    def finish(item: int) -> None:
        if stage == "finish":
            broken(item)

    engine = LocalEngine(numbers(), broken if stage == "compute" else lambda item: item, finish)
    with pytest.raises(ValueError, match=stage):
        engine.run()
    assert not {"encode", "finish"} & {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("stage", ["encode", "compute"])
def test_what_a_stage_waits_for_is_given_up_when_another_has_failed(stage: str) -> None:
    given_up, reasons = threading.Event(), list[str]()

    def numbers() -> Generator[int, None, None]:
        yield 0
        if stage == "encode":
            raise ValueError(stage)
        yield 1

    def compute(item: int) -> int:
        if stage == "compute" and item:
            raise ValueError(stage)
        return item

    def give_up(reason: BaseException) -> None:
        reasons.append(str(reason))
        given_up.set()

    def finish(item: int) -> None:
        assert given_up.wait(20)  # as long as a server that answers no more

    with pytest.raises(ValueError, match=stage):
        LocalEngine(numbers(), compute, finish, give_up=give_up).run()
    assert reasons == [stage]


def test_a_stage_that_is_given_up_hides_no_failure() -> None:
    begun, given_up = threading.Event(), threading.Event()

    def numbers() -> Generator[int, None, None]:
        yield 0
        assert begun.wait(20)
        raise ValueError("why")

    def compute(item: int) -> int:
        begun.set()
        assert given_up.wait(20)
        raise Interrupted("nobody wants it any more")

    with pytest.raises(ValueError, match="why"):
        LocalEngine(numbers(), compute, lambda item: None, give_up=lambda reason: given_up.set()).run()


@pytest.mark.parametrize("stage", ["compute", "finish"])
def test_a_thread_that_reads_ahead_ends_with_the_run(stage: str) -> None:
    def fail(item: int) -> int:
        raise ValueError(stage)

    stopped = threading.Event()  # never: it is the engine that closes it
    ahead = read_ahead(iter(range(1000)), 2, stopped.is_set, "reads ahead")
    engine = LocalEngine(ahead, fail if stage == "compute" else lambda item: item, fail)
    with pytest.raises(ValueError, match=stage):
        engine.run()
    assert "reads ahead" not in {thread.name for thread in threading.enumerate()}


def test_what_was_computed_before_an_interrupt_is_finished() -> None:
    done: list[int] = []

    def compute(item: int) -> int:
        if item == 5:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        LocalEngine((item for item in range(10)), compute, done.append).run()
    assert done == [0, 1, 2, 3, 4]


def test_what_was_computed_after_what_an_interrupt_gives_up_is_finished() -> None:
    given_up, done = threading.Event(), list[int]()

    def compute(item: int) -> int:
        if item == 4:
            raise KeyboardInterrupt
        return item

    def finish(item: int) -> None:
        if item == 1:
            assert given_up.wait(5)
            raise Interrupted("nobody wants it any more")
        done.append(item)

    items = (item for item in range(10))
    with pytest.raises(KeyboardInterrupt):
        LocalEngine(items, compute, finish, give_up=lambda reason: given_up.set(), landing=4).run()
    assert done == [0, 2, 3]


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_the_last_is_finished_gives_it_up() -> None:
    given_up, waited = threading.Event(), list[bool]()

    def finish(item: int) -> None:
        if item == 2:
            _thread.interrupt_main()
            waited.append(given_up.wait(5))  # for what a server has still to answer
            raise Interrupted("nobody wants it any more")

    engine = LocalEngine((item for item in range(3)), lambda item: item, finish, give_up=lambda reason: given_up.set())
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert waited == [True]


def test_after_an_interrupt_nothing_more_is_begun_while_the_last_is_finished() -> None:
    told, done = threading.Event(), []

    def items() -> Generator[int, None, None]:
        yield from (0, 1)
        while not engine.stopping:  # as what is long at work on an item asks now and then
            time.sleep(0.01)
        told.set()
        raise Interrupted("no longer wanted")

    def compute(item: int) -> int:
        if item:
            raise KeyboardInterrupt
        return item

    def finish(item: int) -> None:
        assert told.wait(5)
        time.sleep(0.05)  # the other thread is over before it
        done.append(item)

    engine = LocalEngine(items(), compute, finish)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert done == [0]


class Weighty:
    """An item that can be watched."""


def test_nothing_is_held_of_what_is_done() -> None:
    """A shard and its tokens are large: no stage holds the last one while the next is made."""
    alive: list[weakref.ref[Weighty]] = []

    def encoded() -> Generator[Weighty, None, None]:
        for _ in range(3):
            if alive:
                deadline = time.monotonic() + 5
                while alive[-1]() and time.monotonic() < deadline:  # the other threads go back to wait
                    time.sleep(0.01)
                assert alive[-1]() is None
            item = Weighty()
            alive.append(weakref.ref(item))
            yield item
            del item

    LocalEngine(encoded(), lambda item: item, lambda item: None).run()
    assert len(alive) == 3


def test_finish_may_let_go_of_what_it_is_given() -> None:
    found: list[bool] = []

    def finish(item: Weighty) -> None:
        watched = weakref.ref(item)
        del item
        found.append(watched() is None)

    LocalEngine((Weighty() for _ in range(2)), lambda item: item, finish).run()
    assert found == [True, True]


@pytest.mark.parametrize("waiting", [1, 2])
def test_few_shards_are_on_their_way_at_a_time(waiting: int) -> None:
    """What a stalled stage holds up does not grow: so many between each two stages, and one in each."""
    made: list[int] = []
    stalled = threading.Event()

    def numbers() -> Generator[int, None, None]:
        for number in range(20):
            made.append(number)
            yield number

    def finish(item: int) -> None:
        if not stalled.is_set():
            time.sleep(0.3)
            stalled.set()
            assert len(made) <= 3 + 2 * waiting

    LocalEngine(numbers(), lambda item: item, finish, waiting=waiting).run()
    assert len(made) == 20


def test_an_interrupt_that_comes_amid_a_lock_leaves_nobody_waiting() -> None:
    done: list[int] = []

    def work() -> None:
        engine = LocalEngine((n for n in range(2)), lambda item: item, done.append)
        try:
            engine.run()
        finally:
            assert engine._over == {"encode", "finish"}

    steps = list(interrupted_at_each_step(work, ("queue.py", "waiting.py")))
    assert len(steps) > 10
    assert done[-2:] == [0, 1]
