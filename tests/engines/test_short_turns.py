import sys

import pytest

from secbatch.engines.short_turns import SECONDS, short_turns


@pytest.fixture(autouse=True)
def interval():
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_turns_are_short_inside_and_as_before_outside_also_after_an_error():
    sys.setswitchinterval(0.02)
    with pytest.raises(ValueError, match="inside"), short_turns():
        assert sys.getswitchinterval() == pytest.approx(SECONDS, rel=0.05)
        raise ValueError("inside")
    assert sys.getswitchinterval() == pytest.approx(0.02)


def test_a_caller_with_shorter_turns_keeps_them():
    sys.setswitchinterval(0.0001)
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(0.0001, rel=0.05)


def test_of_two_runs_that_overlap_the_last_one_gives_back_what_was_before():
    sys.setswitchinterval(0.02)
    first, second = short_turns(), short_turns()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(SECONDS, rel=0.05)
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(0.02)
