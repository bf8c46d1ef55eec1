"""The time left follows the speed of the last minutes, not the minutes in which a model was loaded."""

import pytest

from secbatch.time_left import MOST, TimeLeft


def test_nothing_is_told_before_the_first_rows() -> None:
    assert TimeLeft(0.0).seconds(5.0, 0.0) is None


def test_the_first_shard_alone_tells_with_all_that_was_before_it() -> None:
    assert TimeLeft(100.0).seconds(120.0, 0.1) == pytest.approx(180)


def test_a_first_step_says_nothing_until_there_is_a_second_one() -> None:
    left = TimeLeft(0.0)
    assert left.seconds(60.0, 0.001) is None  # a model was loaded; it is not 16 hours
    assert left.seconds(61.0, 0.002) == pytest.approx(998)


def test_from_the_second_shard_on_the_loading_does_not_count() -> None:
    left = TimeLeft(0.0)
    left.seconds(60.0, 0.1)
    assert left.seconds(70.0, 0.2) == pytest.approx(80)
    assert left.seconds(80.0, 0.3) == pytest.approx(70)


def test_it_goes_down_while_a_shard_is_waited_for_and_up_when_that_is_late() -> None:
    left = TimeLeft(0.0)
    left.seconds(60.0, 0.1)
    left.seconds(70.0, 0.2)
    assert left.seconds(75.0, 0.2) == pytest.approx(75)
    assert left.seconds(80.0, 0.2) == pytest.approx(70)
    assert left.seconds(90.0, 0.2) == pytest.approx(150)


def test_a_run_that_becomes_slower_is_believed_after_a_while() -> None:
    left, now, done = TimeLeft(0.0), 0.0, 0.0
    for _ in range(40):  # what is known already passes quickly
        now, done = now + 1, done + 0.01
        left.seconds(now, done)
    for _ in range(20):
        now, done = now + MOST / 10, done + 0.001
        told = left.seconds(now, done)
    assert told == pytest.approx((1 - done) / 0.001 * MOST / 10, rel=0.01)


def test_all_done_is_no_time() -> None:
    left = TimeLeft(0.0)
    left.seconds(1.0, 0.5)
    assert left.seconds(2.0, 1.0) == 0.0


def test_steps_in_less_than_a_moment_say_nothing_of_a_long_run() -> None:
    left = TimeLeft(0.0)
    assert left.seconds(10.0, 0.0) is None  # what was before counts for nothing
    assert left.seconds(10.1, 0.0001) is None and left.seconds(10.3, 0.0002) is None  # it is not half an hour
    assert left.seconds(10.8, 0.08) == pytest.approx(8, rel=0.1)
    left = TimeLeft(0.0)
    left.seconds(10.0, 0.0)
    assert left.seconds(11.0, 0.1) == pytest.approx(9)


def test_rows_that_were_done_already_say_nothing_of_those_after_them() -> None:
    left, told = TimeLeft(0.0), []
    for second in range(20):
        left.seconds(float(second), second / 20 * 0.97)
    for second in range(1200):
        told.append(left.seconds(20.0 + second, 0.97 + 0.03 * second / 1200))
    assert told[0] is not None and told[0] < 1  # nobody knows yet
    assert told[30:] == pytest.approx([1200 - second for second in range(30, 1200)], rel=0.01, abs=0.1)
