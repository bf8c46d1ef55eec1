"""How long a thread keeps Python's interpreter from the others."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 0.0005

_mutex = threading.Lock()
_before: list[float] = []  # what the process had, once for each run that is inside


@contextmanager
def short_turns() -> Iterator[None]:
    """Lets a thread that wants the interpreter have it after half a millisecond instead of five.

    A batch on a GPU is begun by some 170 short calls, each of which lets go of the interpreter and wants it back. While
    other threads tokenise and write, five milliseconds for some of them are more than the GPU has work for. For the
    whole process, until the last of several runs in it is over; a caller gets back what it had.
    https://docs.python.org/3/library/sys.html#sys.setswitchinterval
    """
    with _mutex:
        _before.append(_before[0] if _before else sys.getswitchinterval())
        sys.setswitchinterval(min(_before[0], SECONDS))
    try:
        yield
    finally:
        with _mutex:
            before = _before.pop()
            if not _before:
                sys.setswitchinterval(before)
