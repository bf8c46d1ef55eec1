"""Memory of the host that runs out outside of a model: while files are read, columns are made or results written."""

from secbatch.errors import SecbatchError, cause


def refused(error: BaseException) -> SecbatchError | None:
    """The sentence for `error`, where it comes of a lack of memory: Python's, or Arrow's, which is one of Python's."""
    if not isinstance(error, MemoryError):
        return None
    what = f" ({cause(error)})" if str(error) else ""
    return SecbatchError(
        f"memory ran out{what}: the machine's, or what the process may have of it (ulimit -v, a container's limit);"
        " nothing that is done is lost: run the same command again where there is more"
    )
