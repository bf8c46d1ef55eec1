"""Something that goes on beside other work, and ends with it."""

import threading
import time

import pytest

from secbatch.now_and_then import NowAndThen


def test_it_is_done_again_and_again_until_it_is_left() -> None:
    calls, three = [], threading.Event()

    def action() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            three.set()

    with NowAndThen(action, 0.01, "tell"):
        assert three.wait(20)
    made = len(calls)
    time.sleep(0.05)
    assert set(calls) == {"tell"} and len(calls) == made
    assert "tell" not in {thread.name for thread in threading.enumerate()}


def test_what_it_raises_comes_out_unless_something_else_does() -> None:
    tried = threading.Event()

    def action() -> None:
        tried.set()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"), NowAndThen(action, 0.01, "tell"):
        assert tried.wait(20)
    tried.clear()
    with pytest.raises(ValueError, match="another"), NowAndThen(action, 0.01, "tell"):
        assert tried.wait(20)
        raise ValueError("another")
