"""From the job's `input.path` to files: one file, a glob, a folder or a URI, local and remote alike.

All file access goes through pyarrow's file systems, so that a local run walks the same code as one on an
object store.
"""

import os
import posixpath
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secbatch.errors import InputError, nearest
from secbatch.patience import patiently
from secbatch.redaction import redacted
from secbatch.sources.remote import ATTEMPTS, RemoteFile, is_remote, may_pass

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.fs as pafs

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True)
class InputFile:
    """One file of the input."""

    path: str  # as the job names it: what goes to `secbatch_source`
    size: int  # bytes in storage
    format: str  # csv, parquet or jsonl
    compression: str | None  # gzip, zstd, bz2, by the file's ending
    fs_path: str = field(repr=False)  # the path inside `filesystem`
    filesystem: "pafs.FileSystem" = field(repr=False, compare=False)
    modified: float | None = field(default=None, repr=False, compare=False)  # seconds since the epoch

    def open(self) -> "pa.NativeFile":
        """The stored bytes, with random access; a remote file is read through failures that pass."""
        import pyarrow as pa

        if not is_remote(self.filesystem):
            return self.filesystem.open_input_file(self.fs_path)
        return pa.PythonFile(RemoteFile(self.filesystem, self.fs_path, self.path), mode="r")


@dataclass(frozen=True)
class Found:
    """The files of an input in sorted order, and what is worth saying about how they were found."""

    files: tuple[InputFile, ...]
    notices: tuple[str, ...] = ()
    waiting: int = 0  # files that are left for the next run


def find_files(path: str, format_named: str | None = None) -> Found:
    """All files that `path` names, in the order of their names.

    Raises InputError: nothing there, nothing readable, or files of different formats.
    """
    import pyarrow.fs as pafs

    if not path.strip():
        raise InputError("input.path is empty; name a file, a glob, a folder or a URI")
    if "\0" in path:
        raise InputError(f"input path {path!r} holds a NUL character, which no name of a file can")
    filesystem, root, shown, pattern = _locate(path)
    try:
        whole = f"{root}/{pattern}" if root and pattern else pattern or root
        if pattern and "://" not in path and _kind(filesystem, whole) == pafs.FileType.File:
            root, shown, pattern = whole, path, ""  # a file whose name has brackets in it
        if not pattern:
            info = _facts(filesystem, root)
            if info.type == pafs.FileType.File:
                return Found((_named_file(path, shown, info, format_named, filesystem),))
            if info.type == pafs.FileType.Directory:
                return _folder(path, filesystem, root, shown, format_named)
            if info.type == pafs.FileType.Unknown:
                raise InputError(f"input path '{path}' is neither a file nor a folder; copy it to a file first")
            raise InputError(_missing(path, filesystem, root))
        return _glob(path, filesystem, root, shown, pattern, format_named)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raw = error.object if isinstance(error.object, bytes) else os.fsencode(error.object)
        name = raw.decode("utf-8", "backslashreplace").rsplit("/", 1)[-1]
        raise InputError(f"input path '{path}' leads to '{name}', a name that is not UTF-8; rename it") from None
    except PermissionError:
        raise InputError(f"input path '{path}' may not be read: permission denied") from None
    except OSError as error:
        raise InputError(f"input path '{path}' cannot be read: {_first_line(error)}") from None


def settled(found: Found, seconds: float) -> Found:
    """`found` without files that changed in the last `seconds`: somebody may still be writing them.

    Raises InputError when none is left.
    """
    if not seconds:
        return found
    now = time.time()
    files = tuple(f for f in found.files if f.modified is None or now - f.modified >= seconds)
    waiting = [f.path for f in found.files if f not in files]
    if not waiting:
        return found
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    text = f"{waiting[0]}{more} changed within the last {seconds:g} seconds (input.settle)"
    if not files:
        raise InputError(f"{text}, and there is no other file; run again later")
    return Found(files, (*found.notices, f"{text} and is left for the next run"), len(waiting))


def _locate(path: str) -> "tuple[pafs.FileSystem, str, str, str]":
    """`path` as (file system, root inside it, root as named, glob pattern below the root or '')."""
    import pyarrow as pa
    import pyarrow.fs as pafs

    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)
    if scheme is None:
        base, pattern = _split_glob(path, "*?[")
        root = str(Path(base).expanduser()) if base else ("" if pattern else ".")
        return pafs.LocalFileSystem(), root, base, pattern
    address, _, query = path.partition("?")
    base, pattern = _split_glob(address, "*[")
    if len(base) < scheme.end():
        raise InputError(f"input path '{path}' has a pattern where the host or bucket must stand")
    try:
        filesystem, root = from_uri(base + (f"?{query}" if query else ""))
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"input path '{path}' is no usable URI: {_first_line(error)}") from None
    except OSError as error:
        raise InputError(f"input path '{path}' cannot be reached: {_first_line(error)}") from None
    return filesystem, root.rstrip("/") or root, redacted(base), pattern  # the name goes into data and rejects


def from_uri(uri: str) -> "tuple[pafs.FileSystem, str]":
    """(file system, path inside it) of a URI such as s3://bucket/folder."""
    import pyarrow.fs as pafs

    filesystem, path = patiently(lambda: pafs.FileSystem.from_uri(uri), ATTEMPTS, may_pass)
    return filesystem, path


def _split_glob(path: str, magic: str) -> tuple[str, str]:
    """The longest folder without a pattern character, and the pattern below it."""
    place = min((path.find(c) for c in magic if c in path), default=-1)
    if place < 0:
        return (path.rstrip("/") or path), ""
    cut = path.rfind("/", 0, place)
    base = path[:cut] if cut > 0 else path[: cut + 1]
    return base, path[cut + 1 :]


def _kind(filesystem: "pafs.FileSystem", path: str) -> "pafs.FileType":
    kind: pafs.FileType = _facts(filesystem, path).type
    return kind


def _facts(filesystem: "pafs.FileSystem", of: "str | pafs.FileSelector") -> Any:
    """What the file system says of a path, or of all that a selector finds."""
    attempts = ATTEMPTS if is_remote(filesystem) else 1
    return patiently(lambda: filesystem.get_file_info(of), attempts, may_pass)


def file_format(name: str) -> tuple[str | None, str | None]:
    """(format, compression) by a file's ending; None where the ending says nothing."""
    name = name.lower()
    stem, ending = posixpath.splitext(name)
    compression = COMPRESSIONS.get(ending)
    if compression:
        ending = posixpath.splitext(stem)[1]
    return FORMATS.get(ending), compression


def _input_file(shown: str, info: "pafs.FileInfo", format_: str, filesystem: "pafs.FileSystem") -> InputFile:
    compression = None if format_ == "parquet" else file_format(info.path)[1]
    modified = info.mtime_ns / 1e9 if info.mtime_ns else None
    return InputFile(shown, int(info.size or 0), format_, compression, info.path, filesystem, modified)


def _named_file(
    path: str, shown: str, info: "pafs.FileInfo", format_named: str | None, filesystem: "pafs.FileSystem"
) -> InputFile:
    format_ = format_named or file_format(info.path)[0]
    if format_ is None:
        raise InputError(
            f"cannot tell the format of '{path}' from its ending; name it with "
            "`input.format: csv`, `parquet` or `jsonl`"
        )
    return _input_file(shown, info, format_, filesystem)


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def _below(filesystem: "pafs.FileSystem", root: str, recursive: bool) -> "list[tuple[str, pafs.FileInfo]]":
    """(path relative to `root`, info) of all that lies below it, sorted by name."""
    import pyarrow.fs as pafs

    if recursive and isinstance(filesystem, pafs.LocalFileSystem):
        entries = _walk_once(filesystem, root or ".")
    else:
        entries = _facts(filesystem, pafs.FileSelector(root or ".", recursive=recursive))
    prefix = "" if root in ("", ".") else root.rstrip("/") + "/"
    result = [(_without(info.path, prefix), info) for info in entries]
    return sorted(result, key=lambda entry: entry[0])


def _walk_once(filesystem: "pafs.FileSystem", root: str) -> "list[pafs.FileInfo]":
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
            if info.type == pafs.FileType.Directory:
                (links if Path(info.path).is_symlink() else folders).append(info.path)
    return entries


def _without(path: str, prefix: str) -> str:
    path = path.removeprefix("./") if not prefix else path
    return path.removeprefix(prefix)


def _folder(path: str, filesystem: "pafs.FileSystem", root: str, shown: str, format_named: str | None) -> Found:
    import pyarrow.fs as pafs

    entries = [
        (relative, info)
        for relative, info in _below(filesystem, root, recursive=True)
        if info.type == pafs.FileType.File and not _hidden(relative)
    ]
    if not entries:
        raise InputError(f"input folder '{path}' has no files in it")
    return _of_one_format(path, f"input folder '{path}'", entries, shown, format_named, filesystem)


def _glob(
    path: str,
    filesystem: "pafs.FileSystem",
    root: str,
    shown: str,
    pattern: str,
    format_named: str | None,
) -> Found:
    import pyarrow.fs as pafs

    if root and _kind(filesystem, root) != pafs.FileType.Directory:
        raise InputError(_missing(path, filesystem, root, folder=shown))
    wanted = glob_regex(pattern)
    everything = _below(filesystem, root, recursive="/" in pattern.rstrip("/") or "**" in pattern)
    matches = [(relative, info) for relative, info in everything if wanted.fullmatch(relative)]
    files = [(relative, info) for relative, info in matches if info.type == pafs.FileType.File]
    for relative, info in matches if not files else ():  # a glob over folders: each is read whole
        inner = _below(filesystem, info.path, recursive=True)
        files += [
            (f"{relative}/{below}", entry)
            for below, entry in inner
            if entry.type == pafs.FileType.File and not _hidden(below)
        ]
    if not files:
        hint = nearest(pattern, [relative for relative, _ in everything][:1000])
        raise InputError(f"no file matches input path '{path}'{hint}")
    return _of_one_format(path, f"input path '{path}'", sorted(files), shown, format_named, filesystem)


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A shell pattern as a regular expression: `*` and `?` stay inside a folder, `**/` crosses folders.

    As in a shell, a pattern matches a name with a leading dot only when it has that dot itself. Raises InputError
    for a range that runs backwards.
    """
    parts = []
    for segment in pattern.rstrip("/").split("/"):
        if segment == "**":
            parts.append("**")
            continue
        regex = "" if segment.startswith(".") else r"(?!\.)"
        i = 0
        while i < len(segment):
            c = segment[i]
            close = segment.find("]", i + 2) if c == "[" else -1
            if c == "*":
                regex += "[^/]*"
            elif c == "?":
                regex += "[^/]"
            elif close > 0:
                negated = segment[i + 1] in "!^"
                inner = segment[i + 2 if negated else i + 1 : close]
                escaped = "".join(x if x.isalnum() or x == "-" else f"\\{x}" for x in inner)
                regex += f"[{'^' if negated else ''}{escaped}]"
                i = close
            else:
                regex += re.escape(c)
            i += 1
        parts.append(regex)
    folder = r"(?:(?!\.)[^/]+/)*"
    text = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            text += folder + (r"(?!\.)[^/]+" if last else "")
        else:
            text += part + ("" if last else "/")
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"input path: '{pattern}' is no pattern of file names: {error.msg}") from None


def _of_one_format(
    path: str,
    what: str,
    entries: "Sequence[tuple[str, pafs.FileInfo]]",
    shown: str,
    format_named: str | None,
    filesystem: "pafs.FileSystem",
) -> Found:
    """The entries as input files; those that hold no rows by their ending are left out and counted aloud."""
    known = [(relative, info, file_format(relative)[0]) for relative, info in entries]
    if format_named is not None:
        chosen = [entry for entry in known if entry[2] == format_named]
        if not chosen:  # part-00000 and the like, as some engines name their files
            chosen = [e for e in known if e[2] is None and not posixpath.splitext(e[0])[1]]
    else:
        chosen = [entry for entry in known if entry[2] is not None]
        formats = sorted({str(entry[2]) for entry in chosen})
        if len(formats) > 1:
            raise InputError(
                f"{what} holds files of several formats ({', '.join(formats)}); choose one with "
                f"`input.format: {formats[0]}` or a glob such as '*.{formats[0]}'"
            )
    chosen, twice = _without_links(chosen, filesystem)
    if not chosen:
        endings = ", ".join(FORMATS) if format_named is None else format_named
        raise InputError(f"{what} has no file of a known format ({endings}; gz, zst and bz2 besides)")
    skipped = len(known) - len(chosen) - twice
    notices = [f"{skipped} other files under '{path}' are left out"] if skipped else []
    if twice:
        notices.append(f"{twice} links under '{path}' to files that are read already are left out")
    join = "" if not shown or shown.endswith("/") else "/"
    files = tuple(
        _input_file(f"{shown}{join}{relative}", info, format_named or str(format_), filesystem)
        for relative, info, format_ in chosen
    )
    return Found(files, tuple(notices))


def _without_links(
    chosen: "list[tuple[str, pafs.FileInfo, str | None]]", filesystem: "pafs.FileSystem"
) -> "tuple[list[tuple[str, pafs.FileInfo, str | None]], int]":
    """`chosen` without symbolic links to files that are in it anyway, and how many those are."""
    import pyarrow.fs as pafs

    if not isinstance(filesystem, pafs.LocalFileSystem):
        return chosen, 0
    links = [entry for entry in chosen if Path(entry[1].path).is_symlink()]
    places = {Path(entry[1].path).resolve() for entry in chosen if entry not in links}
    kept = []
    for entry in chosen:
        place = Path(entry[1].path).resolve()
        if entry not in links or place not in places:
            kept.append(entry)
            places.add(place)
    return kept, len(chosen) - len(kept)


def _missing(path: str, filesystem: "pafs.FileSystem", fs_path: str, folder: str | None = None) -> str:
    """One sentence on a path that is not there, with the nearest name that is."""
    import pyarrow.fs as pafs

    parent, name = posixpath.split(fs_path.rstrip("/"))
    hint = ""
    try:
        if not parent or _kind(filesystem, parent) == pafs.FileType.Directory:
            names = [relative for relative, _ in _below(filesystem, parent, recursive=False)]
            hint = nearest(name, names[:1000])
    except OSError:
        hint = ""  # the sentence is true without a hint
    if folder is not None:
        return f"input path '{path}' cannot match: folder '{folder}' does not exist{hint}"
    return f"input path '{path}' does not exist{hint}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
