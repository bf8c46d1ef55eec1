"""The limit on the size of each file that a process writes: `ulimit -f`, LimitFSIZE in a unit of systemd."""

import errno
import resource
from pathlib import Path

from secbatch.errors import OutputError

_WORDS = "File too large"  # where a library has made an error of its own of the system's


def size_limit() -> int | None:
    """Bytes; None where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def beyond_limit(what: str) -> OutputError:
    """The sentence for a file that the limit, which there is, does not let grow."""
    return OutputError(
        f"{what} would become larger than the {size_limit():,} bytes that the system lets this process write into a "
        "file; raise the limit (ulimit -f, LimitFSIZE of systemd) and run again, finished work is kept and reused."
    )


def refused(error: OSError, path: Path | str | None) -> OutputError | None:
    """The sentence for `error`, where it comes of that limit. `path`: None where it is not known."""
    if size_limit() is not None and (error.errno == errno.EFBIG or _WORDS in str(error)):
        return beyond_limit(f"'{path}'" if path else "A file")
    return None
