"""Python's garbage collector, out of the way while much is imported and built that stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_kept = False  # whether what was imported has been set aside


@contextmanager
def resting() -> Iterator[None]:
    """No collection inside. What stands the first time it ends is never looked at again.

    torch and transformers make a million objects that stay: looking at all of them again and again costs a sixth of
    their import, and a tenth of a second in the midst of a run.
    """
    global _kept
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not _kept:
            gc.freeze()
            _kept = True
        if was_on:
            gc.enable()
