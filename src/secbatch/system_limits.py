"""Errors of what the system lets a process have (threads, memory, address space, names), and of its settings."""

from secbatch import address_space, file_names, host_memory, library_settings, thread_limit
from secbatch.errors import SecbatchError

_LIMITS = (
    thread_limit,
    file_names,
    host_memory,
    address_space,
    library_settings,
)  # each knows the errors that come of it


def refused(error: BaseException) -> SecbatchError | None:
    """The sentence for `error`, where it comes of one of them."""
    return next(filter(None, (limit.refused(error) for limit in _LIMITS)), None)
