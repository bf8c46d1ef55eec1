"""What a read that fails says of the file, and what of the machine."""

import errno

from secbatch import host_memory, thread_limit

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_the_machines(error: BaseException) -> bool:
    """Whether memory, threads or open files ran out: nothing is known of the file then, and no row of it is lost.

    Arrow's errors for the first two are of the class that it has for damaged files, too.
    """
    if isinstance(error, OSError) and error.errno in _SHORT:
        return True
    return bool(host_memory.refused(error) or thread_limit.refused(error))
