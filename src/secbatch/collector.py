"""Python's garbage collector, out of the way while much is imported and built that stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_to_set_aside = False  # whether what stands when the collector comes back is never to be looked at again


def set_aside_once() -> None:
    """What stands when `resting` ends for the first time is never looked at again.

    For a process that is all ours, as the command line's: what a library's caller has built would be among it, and stay
    for good where it is garbage in a cycle. It saves the looks that follow, 0.2 s each with torch and transformers.
    """
    global _to_set_aside
    _to_set_aside = True


@contextmanager
def resting() -> Iterator[None]:
    """No collection inside.

    torch and transformers make a million objects that stay: looking at all of them again and again costs a sixth of
    their import.
    """
    global _to_set_aside
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _to_set_aside:
            gc.freeze()
            _to_set_aside = False
        if was_on:
            gc.enable()
