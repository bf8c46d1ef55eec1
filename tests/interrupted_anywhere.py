"""An interrupt at every step that a function takes within some files, one after another, as a signal may bring it."""

import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from secbatch.errors import Interrupted


def interrupted_at_each_step(work: Callable[[], object], files: tuple[str, ...], every: int = 1) -> Iterator[int]:
    """Does `work` again and again, interrupted at its first step, its second and so on; gives the step's number.

    `files`: ends of the names of those whose steps count. Ends with the first time that `work` comes to its end. Fails
    where it hangs.
    """
    step = 0
    while True:
        came, wrong = [False], list[Exception]()
        runner = threading.Thread(target=_run, args=(work, files, step, came, wrong), daemon=True)
        runner.start()
        runner.join(10)
        assert not runner.is_alive(), f"interrupted at step {step}, it hangs"
        if wrong:
            raise wrong[0]
        if not came[0]:
            return
        yield step
        step += every


def _run(
    work: Callable[[], object], files: tuple[str, ...], step: int, came: list[bool], wrong: list[Exception]
) -> None:
    left = step

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if came[0] or not frame.f_code.co_filename.endswith(files):
            return trace
        left -= 1
        if left < 0:
            came[0] = True
            raise Interrupted("stop")
        return trace

    sys.settrace(trace)
    try:
        work()
    except Interrupted:
        pass
    except Exception as error:  # raised by whoever waits for this thread
        wrong.append(error)
    finally:
        sys.settrace(None)
