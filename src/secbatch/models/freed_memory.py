"""What becomes of memory that a batch gives back on a CPU."""

import ctypes
import sys
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
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
