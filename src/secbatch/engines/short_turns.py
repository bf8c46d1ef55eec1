"""How long a thread keeps Python's interpreter from the others."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 0.0005


@contextmanager
def short_turns() -> Iterator[None]:
    """Lets a thread that wants the interpreter have it after half a millisecond instead of five.

    A batch on a GPU is begun by some 170 short calls, each of which lets go of the interpreter and wants it back. While
    other threads tokenise and write, five milliseconds for some of them are more than the GPU has work for. For the
    whole process; a caller gets back what it had.
    https://docs.python.org/3/library/sys.html#sys.setswitchinterval
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
