"""Figures that a command works out over many rows: a bar meanwhile, and JSON into a file or to standard output."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secbatch import file_size_limit
from secbatch.cli.terminal import printable
from secbatch.errors import SecbatchError

if TYPE_CHECKING:
    from secbatch.comparison.predictions import Progress


@contextmanager
def predicting(rows: int) -> "Iterator[Progress | None]":
    """A progress bar over rows, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=rows, label="Predicting", file=sys.stderr) as bar:
        yield bar.update


def check_json_file(path: str | None) -> None:
    """Raises UsageError or SecbatchError, before any work, for a file that could not be written after it."""
    if path in (None, "-"):
        return
    place = Path(str(path)).absolute()
    if place.is_dir() or not place.parent.is_dir():
        why = "it is a folder" if place.is_dir() else f"there is no folder {place.parent}"
        raise click.UsageError(f"'{printable(str(path))}' cannot be written: {why}.")
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise SecbatchError(f"'{path}' may not be written; mend its rights, or name another place.")


def write_json(path: str, figures: dict[str, Any]) -> None:
    """Into a file, or to standard output where that is "-". Raises SecbatchError when it cannot be."""
    if path == "-":
        click.echo(json.dumps(figures, indent=2))  # ASCII: labels must neither reach a terminal nor break a locale
        return
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        if too_large := file_size_limit.refused(error, path):
            raise too_large from None
        raise SecbatchError(f"'{path}' cannot be written ({error.strerror or error})") from None
