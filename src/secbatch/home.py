"""Paths that begin with somebody's home, `~` or `~name`."""

from pathlib import Path

from secbatch.errors import InputError, SecbatchError


def expanded(path: str, what: str, error: type[SecbatchError] = InputError) -> Path:
    """`path` as a whole one. `what` it is, for the sentence of the `error` that is raised where there is no such home.

    A name may be nobody's, and a container's user may have neither a name nor HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise error(f"{what} '{path}' begins with '~', which is no home here; write the whole path") from None
