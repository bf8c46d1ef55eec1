"""The working directory of this process, which somebody may have removed."""

import os
from pathlib import Path

from secbatch import file_names
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


def check_working_folder_name() -> None:
    """Raises SecbatchError for a name that is not UTF-8: Arrow takes no path in it, and no record can hold it."""
    folder = str(Path.cwd())
    try:
        folder.encode()
    except UnicodeEncodeError:
        what = "it is not UTF-8; rename the folder, or run from another one"
        if not file_names.locale_is_utf8():
            what = file_names.remedy()
        shown = os.fsencode(folder).decode(errors="backslashreplace")
        raise SecbatchError(f"the working directory '{shown}' has a name that cannot be used: {what}") from None
