"""What a read that fails says of the file, and what of the machine."""

import errno

from secbatch import host_memory, thread_limit

_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_AWAY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV, errno.ENXIO}  # disk or server
_ASTRAY = {errno.ELOOP, errno.ENOTDIR}  # a link, or a folder of the path, leads nowhere
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_NUMBERS = frozenset(_SHORT | _AWAY | _ASTRAY | _FORBIDDEN)  # what is wrong in a file itself has none


def is_the_machines(error: BaseException) -> bool:
    """Whether memory, threads or open files ran out, or the storage does not give the file.

    Nothing is known of the file then, and no row of it is lost. Arrow's errors for a lack of memory or threads are of
    the class that it has for damaged files, too.
    """
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return bool(host_memory.refused(error) or thread_limit.refused(error))
