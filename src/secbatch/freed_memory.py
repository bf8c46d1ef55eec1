"""What becomes of memory that is given back to the C library."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache

# Of mallopt (https://man7.org/linux/man-pages/man3/mallopt.3.html).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 256 << 20, 32 << 20  # bytes that are kept at most; and in one piece (glibc allows no more)


@cache
def keep_freed_memory() -> bool:
    """Has the C library keep it for the next batch; returns whether it does.

    Otherwise much of it goes back to the system after each layer, and every page of it has to be brought in again and
    filled with zeros: some 250 page faults a sentence of RoBERTa-base's shape. For the whole process, only with glibc.
    """
    mallopt = _of_glibc("mallopt")
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))


def give_back_freed_memory() -> bool:
    """Has the C library give it to the system, that of all threads; returns whether there was some.

    For the moment when other work begins: what its thread allocates does not come out of what others have freed. A few
    milliseconds. Only with glibc.
    """
    trim = _of_glibc("malloc_trim")
    return bool(trim and trim(0))


def _of_glibc(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):  # another C library
        return None
    return function
