"""Symbolic links that lead out of an output: a run must not write, read or clear what is somebody else's."""

import os
from collections.abc import Iterator
from pathlib import Path

from secbatch.errors import OutputError
from secbatch.store.layout import Layout


def refuse_links(layout: Layout) -> None:
    """Raises OutputError for a symbolic link under OUT/_secbatch. secbatch makes none there; OUT itself may be one."""
    if layout.internal.is_symlink():
        raise _refusal(layout.internal)
    for entry in _below(layout.internal):
        if entry.is_symlink():
            raise _refusal(Path(entry.path))


def _refusal(path: Path) -> OutputError:
    return OutputError(
        f"'{path}' is a symbolic link, of which secbatch makes none there; remove it, and run again "
        "(what belongs to the dataset is made anew)."
    )


def _below(folder: Path) -> Iterator[os.DirEntry[str]]:
    folders = [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:  # there is no output yet, or a run that ends is clearing up
            continue
        except OSError as error:
            raise OutputError(f"Output '{folder}' cannot be looked through: {error.strerror}.") from None
