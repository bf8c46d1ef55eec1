"""The limit on a process's address space (`ulimit -v`)."""

import resource

from secbatch.errors import SecbatchError, cause

LEAST = 1700 << 20  # bytes that torch for CPUs, its libraries and a small model take on two cores
_NO_ROOM = "failed to map segment"  # the dynamic loader's words


def check_address_space() -> None:
    """Raises SecbatchError below LEAST: libraries fail there in many ways, and OpenBLAS waits for memory for ever."""
    limit = _limit()
    if limit is not None and limit < LEAST:
        raise _too_low(limit, f"alone take {LEAST >> 20:,} MiB")


def refused(error: BaseException) -> SecbatchError | None:
    """The sentence for `error`, where it comes of a library that had no room: torch for GPUs takes twice LEAST."""
    limit = _limit()
    if limit is None or not isinstance(error, ImportError) or _NO_ROOM not in str(error):
        return None
    return _too_low(limit, f"take more ({cause(error)})")


def _limit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _too_low(limit: int, what: str) -> SecbatchError:
    return SecbatchError(
        f"the address space of this process is limited to {limit >> 20:,} MiB (ulimit -v), and the libraries {what};"
        " raise the limit"
    )
