"""What a file system has at a path and below it, local and remote alike."""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secbatch.patience import patiently
from secbatch.sources.remote import ATTEMPTS, is_remote, may_pass

if TYPE_CHECKING:
    import pyarrow.fs as pafs

RECORDS = "_secbatch"  # the folder of an output that only its runs read


def kind_of(filesystem: "pafs.FileSystem", path: str) -> "pafs.FileType":
    """Whether there is a file, a folder, something else, or nothing at `path`. Raises OSError."""
    kind: pafs.FileType = file_facts(filesystem, path).type
    return kind


def file_facts(filesystem: "pafs.FileSystem", of: "str | pafs.FileSelector") -> Any:
    """What the file system says of a path, or of all that a selector finds. Raises OSError."""
    attempts = ATTEMPTS if is_remote(filesystem) else 1
    return patiently(lambda: filesystem.get_file_info(of), attempts, may_pass)


def entries_below(
    filesystem: "pafs.FileSystem", root: str, recursive: bool, records: bool = True
) -> "list[tuple[str, pafs.FileInfo]]":
    """(path relative to `root`, info) of all that lies below it, sorted by name.

    `records`: with what outputs keep beside their `data`, where its files stand several times.
    """
    import pyarrow.fs as pafs

    if recursive and isinstance(filesystem, pafs.LocalFileSystem):
        entries = _walk_once(filesystem, root or ".", records)
    else:
        entries = file_facts(filesystem, pafs.FileSelector(root or ".", recursive=recursive))
    prefix = "" if root in ("", ".") else root.rstrip("/") + "/"
    result = [(_without(info.path, prefix), info) for info in entries]
    if not records:
        result = [(relative, info) for relative, info in result if RECORDS not in relative.split("/")]
    return sorted(result, key=lambda entry: entry[0])


def _walk_once(filesystem: "pafs.FileSystem", root: str, records: bool) -> "list[pafs.FileInfo]":
    """All below a local folder, each folder once: symbolic links may lead round in circles."""
    import pyarrow.fs as pafs

    entries: list[pafs.FileInfo] = []
    seen: set[Path] = set()
    folders, links = deque([root]), deque[str]()  # what a link leads to is read under its own name if it can be
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        place = Path(folder).resolve()
        if place in seen:
            continue
        seen.add(place)
        for info in sorted(filesystem.get_file_info(pafs.FileSelector(folder)), key=lambda info: info.path):
            entries.append(info)
            if info.type == pafs.FileType.Directory and (records or info.base_name != RECORDS):
                (links if Path(info.path).is_symlink() else folders).append(info.path)
    return entries


def dead_links(filesystem: "pafs.FileSystem", root: str, entries: "list[tuple[str, pafs.FileInfo]]") -> list[str]:
    """Symbolic links to what is not there, relative to `root`, beside its `entries`, among which they never are."""
    import pyarrow.fs as pafs

    if not isinstance(filesystem, pafs.LocalFileSystem):
        return []
    folders = ["", *(name for name, info in entries if info.type == pafs.FileType.Directory)]
    found = []
    for folder in folders:
        place = Path(root or ".") / folder
        if folder and place.is_symlink():  # read under its own name
            continue
        with suppress(OSError), os.scandir(place) as inside:
            links = [entry.name for entry in inside if entry.is_symlink() and not Path(entry.path).exists()]
            found += [f"{folder}/{name}" if folder else name for name in links]
    return sorted(found)


def no_files(entries: "list[tuple[str, pafs.FileInfo]]") -> list[str]:
    """Of `entries` (path, info), pipes, sockets and devices: what is neither a file nor a folder."""
    import pyarrow.fs as pafs

    return [name for name, info in entries if info.type == pafs.FileType.Unknown]


def _without(path: str, prefix: str) -> str:
    path = path.removeprefix("./") if not prefix else path
    return path.removeprefix(prefix)


def without_links(
    chosen: "list[tuple[str, pafs.FileInfo, str | None]]", filesystem: "pafs.FileSystem"
) -> "tuple[list[tuple[str, pafs.FileInfo, str | None]], int]":
    """`chosen` without symbolic links to files that are in it anyway, and how many those are."""
    import pyarrow.fs as pafs

    if not isinstance(filesystem, pafs.LocalFileSystem):
        return chosen, 0
    paths = [Path(info.path) for _, info, _ in chosen]
    found = [(entry, path.resolve(), path.is_symlink()) for entry, path in zip(chosen, paths, strict=True)]
    places = {place for _, place, link in found if not link}
    kept = []
    for entry, place, link in found:
        if not link or place not in places:
            kept.append(entry)
            places.add(place)
    return kept, len(chosen) - len(kept)


def is_hidden(relative: str) -> bool:
    """Whether a name on this path says that it holds no rows, as `.part.tmp` and `_SUCCESS` do."""
    return any(part.startswith((".", "_")) for part in relative.split("/"))
