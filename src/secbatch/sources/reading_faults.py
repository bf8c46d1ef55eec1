"""What a read that fails says of the file, and what of the machine."""

from secbatch import host_memory, thread_limit


def is_the_machines(error: BaseException) -> bool:
    """Whether memory or threads ran out: then nothing is known of the file, whose rows must not be taken for lost.

    Arrow's errors for both are of the class that it has for damaged files, too.
    """
    return bool(host_memory.refused(error) or thread_limit.refused(error))
