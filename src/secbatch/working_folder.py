"""The working directory of this process, which somebody may have removed."""

from pathlib import Path

from secbatch.errors import SecbatchError


def check_working_folder() -> None:
    """Raises SecbatchError where it is gone: oneMKL ends a process without one, with the exit code of a wrong job."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise SecbatchError(
            "the working directory of this process was removed, and the libraries do not compute without one; change"
            " to a folder that is there and run again"
        ) from None
