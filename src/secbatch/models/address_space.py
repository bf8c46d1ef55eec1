"""The limit on a process's address space (`ulimit -v`)."""

import resource

from secbatch.errors import SecbatchError

LEAST = 1700 << 20  # bytes that torch, its libraries and a small model take on two cores


def check_address_space() -> None:
    """Raises SecbatchError below LEAST: libraries fail there in many ways, and OpenBLAS waits for memory for ever."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST:
        raise SecbatchError(
            f"the address space of this process is limited to {limit >> 20:,} MiB (ulimit -v), and the libraries alone"
            f" take {LEAST >> 20:,} MiB; raise the limit"
        )
