"""From the job's `input.path` to files: one file, a glob, a folder or a URI, local and remote alike.

All file access goes through pyarrow's file systems, so that a local run walks the same code as one on an
object store.
"""

import os
import posixpath
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secbatch.errors import (
    InputChangedError,
    InputError,
    SecbatchError,
    SourceLostError,
    cause,
    counted,
    in_job_or_option,
    nearest,
)
from secbatch.home import expanded
from secbatch.patience import patiently
from secbatch.redaction import redacted
from secbatch.sources.glob_pattern import glob_regex, split_glob
from secbatch.sources.input_file import FORMATS, InputFile, file_format, input_file
from secbatch.sources.listing import (
    RECORDS,
    dead_links,
    entries_below,
    file_facts,
    is_hidden,
    kind_of,
    no_files,
    without_links,
)
from secbatch.sources.remote import ATTEMPTS, may_pass

if TYPE_CHECKING:
    import pyarrow.fs as pafs

WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")  # endings of spreadsheet programs' own files
NO_FILE = "a pipe, a socket or a device is not read; copy what it gives to a file"
NOWHERE = "a symbolic link to what is not there"
AHEAD = 60.0  # seconds that the clock of another machine may be ahead of ours
GOOGLE_SECONDS = 5  # of each try; whoever has no network should be told so


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
        whole = f"{root}/{pattern}" if root and pattern else _no_scheme(pattern) or root
        if pattern and "://" not in path and kind_of(filesystem, whole) == pafs.FileType.File:
            root, shown, pattern = whole, path, ""  # a file whose name has brackets in it
        if not pattern:
            info = file_facts(filesystem, root)
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
    except PermissionError as error:
        at = re.search("'(.+)'", str(error))  # Arrow's words: which of the folders below it was
        place = f" at '{at[1]}'" if at and at[1] not in (path, root) else ""
        raise InputError(f"input path '{path}' may not be read: permission denied{place}; mend the rights") from None
    except OSError as error:
        raise _away(path, error)(f"input path '{path}' cannot be read: {cause(error)}") from None


def settled(found: Found, seconds: float) -> Found:
    """`found` without files that changed in the last `seconds`: somebody may still be writing them.

    Raises InputChangedError, which a retry some minutes later helps against, when none is left.
    """
    if not seconds:
        return found
    now = time.time()

    def waits(file: InputFile) -> bool:
        return file.modified is not None and now - file.modified < seconds

    files = tuple(f for f in found.files if not waits(f))
    waiting = [f for f in found.files if waits(f)]
    if not waiting:
        return found
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    ahead = (waiting[0].modified or 0) > now + AHEAD
    clock = "; by its own time, which is ahead of this machine's clock" if ahead else ""
    last = "second" if seconds == 1 else f"{seconds:g} seconds"
    text = f"{waiting[0].path}{more} changed within the last {last} (input.settle{clock})"
    if not files:
        raise InputChangedError(f"{text}, and there is no other file; run again later")
    return Found(files, (*found.notices, f"{text} and is left for the next run"), found.waiting + len(waiting))


def _locate(path: str) -> "tuple[pafs.FileSystem, str, str, str]":
    """`path` as (file system, root inside it, root as named, glob pattern below the root or '')."""
    import pyarrow as pa
    import pyarrow.fs as pafs

    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)
    if scheme is None:
        base, pattern = split_glob(path, "*?[")
        root = _no_scheme(str(expanded(base, "input path"))) if base else ("" if pattern else ".")
        return pafs.LocalFileSystem(), root, base, pattern
    address, _, query = path.partition("?")
    base, pattern = split_glob(address, "*[")
    if len(base) < scheme.end():
        what = "a pattern" if pattern else "nothing"
        raise InputError(f"input path '{path}' has {what} where the host or bucket must stand")
    try:
        filesystem, root = from_uri(base + (f"?{query}" if query else ""))
    except (pa.ArrowInvalid, ValueError) as error:
        if path.startswith(("http://", "https://")):
            raise InputError(f"input path '{path}' is an address of the web; fetch the file, and name that") from None
        raise InputError(f"input path '{path}' is no usable URI: {cause(error)}") from None
    except OSError as error:
        raise _away(path, error)(f"input path '{path}' cannot be reached: {cause(error)}") from None
    return filesystem, root.rstrip("/") or root, redacted(base), pattern  # the name goes into data and rejects


def _no_scheme(path: str) -> str:
    """A path that Arrow takes for no URI, which it does where a relative one begins like `siem:eu/`."""
    return f"./{path}" if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path) else path


def _away(path: str, error: OSError) -> type[SecbatchError]:
    """A store that does not answer is nothing that the job has wrong: a later run may find it."""
    return SourceLostError if "://" in path and may_pass(error) else InputError


def from_uri(uri: str) -> "tuple[pafs.FileSystem, str]":
    """(file system, path inside it) of a URI such as s3://bucket/folder."""
    import pyarrow.fs as pafs

    filesystem, path = patiently(lambda: pafs.FileSystem.from_uri(bounded(uri)), ATTEMPTS, may_pass)
    return filesystem, path


def bounded(uri: str) -> str:
    """`uri` with a limit on how long Google's client tries on its own: a quarter of an hour, deaf to signals."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={GOOGLE_SECONDS}"


def _named_file(
    path: str, shown: str, info: "pafs.FileInfo", format_named: str | None, filesystem: "pafs.FileSystem"
) -> InputFile:
    format_ = format_named or file_format(info.path)[0]
    if format_ is None and posixpath.splitext(info.path.lower())[1] in WORKBOOKS:
        raise InputError(f"'{path}' is a workbook; save its sheet as CSV and name that file")
    if format_ is None:
        raise InputError(
            f"cannot tell the format of '{path}' from its ending; name it with "
            f"{in_job_or_option('format', 'csv')}, `parquet` or `jsonl`"
        )
    return input_file(shown, info, format_, filesystem)


def _folder(path: str, filesystem: "pafs.FileSystem", root: str, shown: str, format_named: str | None) -> Found:
    import pyarrow.fs as pafs

    everything = entries_below(filesystem, root, recursive=True)
    entries = [
        (relative, info) for relative, info in everything if info.type == pafs.FileType.File and not is_hidden(relative)
    ]
    if not entries:
        dead = dead_links(filesystem, root, everything)
        but = f" but {_first(dead, shown)}: {NOWHERE}" if dead else _but_outputs(everything, shown)
        raise InputError(f"input folder '{path}' has no files in it{but}")
    found = _of_one_format(path, f"input folder '{path}'", entries, shown, format_named, filesystem)
    found = _with_left_out(found, [name for name in no_files(everything) if not is_hidden(name)], shown)
    return _with_dead_links(found, dead_links(filesystem, root, everything), shown, format_named)


def _but_outputs(entries: "list[tuple[str, pafs.FileInfo]]", shown: str) -> str:
    """What is said of a folder that has nothing but an output, or several, in it."""
    output = next((name.split(RECORDS)[0] for name, _ in entries if RECORDS in name.split("/")), None)
    if output is None:
        return ""
    return f" but an output of secbatch, whose rows are in '{posixpath.join(shown, output, 'data')}'"


def _glob(
    path: str,
    filesystem: "pafs.FileSystem",
    root: str,
    shown: str,
    pattern: str,
    format_named: str | None,
) -> Found:
    import pyarrow.fs as pafs

    if root and kind_of(filesystem, root) != pafs.FileType.Directory:
        raise InputError(_missing(path, filesystem, root, folder=shown))
    wanted = glob_regex(pattern)
    deep = "/" in pattern.rstrip("/") or "**" in pattern
    everything = entries_below(filesystem, root, recursive=deep, records=RECORDS in pattern)
    matches = [(relative, info) for relative, info in everything if wanted.fullmatch(relative)]
    files = [(relative, info) for relative, info in matches if info.type == pafs.FileType.File]
    dead = [name for name in dead_links(filesystem, root, everything) if wanted.fullmatch(name)]
    others = no_files(matches)
    folders = [entry for entry in matches if entry[1].type == pafs.FileType.Directory]
    for relative, info in folders if not files else ():  # a glob over folders: each is read whole
        inner = entries_below(filesystem, info.path, recursive=True)
        dead += [f"{relative}/{below}" for below in dead_links(filesystem, info.path, inner)]
        others += [f"{relative}/{below}" for below in no_files(inner) if not is_hidden(below)]
        files += [
            (f"{relative}/{below}", entry)
            for below, entry in inner
            if entry.type == pafs.FileType.File and not is_hidden(below)
        ]
    if not files and others:
        raise InputError(f"input path '{path}' matches no file but {_first(others, shown)}: {NO_FILE}")
    if not files and dead:
        raise InputError(f"input path '{path}' matches no file but {_first(sorted(dead), shown)}: {NOWHERE}")
    if not files:
        hint = nearest(pattern, [relative for relative, _ in everything][:1000])
        raise InputError(f"no file matches input path '{path}'{hint}")
    ending = posixpath.splitext(pattern)[1]
    found = _of_one_format(path, f"input path '{path}'", sorted(files), shown, format_named, filesystem, ending)
    return _with_dead_links(_with_left_out(found, others, shown), dead, shown, format_named)


def _with_left_out(found: Found, names: list[str], shown: str) -> Found:
    """Pipes and the like are named aloud: whoever put one there expects its rows."""
    if not names:
        return found
    return replace(found, notices=(*found.notices, f"{_first(names, shown)} left out: {NO_FILE}"))


def _first(names: list[str], shown: str) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return posixpath.join(shown, names[0]) + more


def _with_dead_links(found: Found, links: list[str], shown: str, format_named: str | None) -> Found:
    """What `links` should lead to waits for the next run: it is not there today, which is no removal."""
    formats = {format_named} if format_named else set(FORMATS.values())
    dead = [
        posixpath.join(shown, name)
        for name in links  # one without an ending may have led to a folder
        if not is_hidden(name) and (file_format(name)[0] in formats or not posixpath.splitext(name)[1])
    ]
    notices = [f"{name} is a symbolic link to what is not there, and left for the next run" for name in dead]
    return Found(found.files, (*found.notices, *notices), found.waiting + len(dead))


def _of_one_format(
    path: str,
    what: str,
    entries: "Sequence[tuple[str, pafs.FileInfo]]",
    shown: str,
    format_named: str | None,
    filesystem: "pafs.FileSystem",
    ending: str = "",
) -> Found:
    """The entries as input files; those that hold no rows by their ending are left out and counted aloud.

    `ending`: that of a glob, which may be any where the format is named.
    """
    known = [(relative, info, file_format(relative)[0]) for relative, info in entries]
    if format_named is not None:
        chosen = [entry for entry in known if entry[2] == format_named]
        if not chosen:  # part-00000 and the like, as some engines name their files; what a glob such as *.txt names
            chosen = [e for e in known if e[2] is None and posixpath.splitext(e[0])[1] in ("", ending)]
    else:
        chosen = [entry for entry in known if entry[2] is not None]
        formats = sorted({str(entry[2]) for entry in chosen})
        if len(formats) > 1:
            raise InputError(
                f"{what} holds files of several formats ({', '.join(formats)}); choose one with "
                f"{in_job_or_option('format', formats[0])} or a glob such as '*.{formats[0]}'"
            )
    chosen, twice = without_links(chosen, filesystem)
    if not chosen:
        endings = ", ".join(FORMATS) if format_named is None else format_named
        raise InputError(
            f"{what} has no file of a known format ({endings}; gz, zst and bz2 besides); for another ending name "
            f"a glob such as '*.txt' and {in_job_or_option('format', format_named or 'csv')}"
        )
    skipped, named = len(known) - len(chosen) - twice, redacted(path)
    notices = [f"{counted(skipped, 'other file')} under '{named}' left out"] if skipped else []
    if twice:
        notices.append(f"{counted(twice, 'link')} under '{named}' to files that are read already left out")
    join = "" if not shown or shown.endswith("/") else "/"
    files = tuple(
        input_file(f"{shown}{join}{relative}", info, format_named or str(format_), filesystem)
        for relative, info, format_ in chosen
    )
    return Found(files, tuple(notices))


def _missing(path: str, filesystem: "pafs.FileSystem", fs_path: str, folder: str | None = None) -> str:
    """One sentence on a path that is not there, with the nearest name that is."""
    import pyarrow.fs as pafs

    if isinstance(filesystem, pafs.LocalFileSystem) and Path(fs_path).is_symlink():
        return f"input path '{path}' is a symbolic link to '{Path(fs_path).readlink()}', which is not there"
    parent, name = posixpath.split(fs_path.rstrip("/"))
    hint = ""
    try:
        if not parent or kind_of(filesystem, parent) == pafs.FileType.Directory:
            names = [relative for relative, _ in entries_below(filesystem, parent, recursive=False)]
            hint = nearest(name, names[:1000])
    except OSError:
        hint = ""  # the sentence is true without a hint
    if folder is not None:
        return f"input path '{path}' cannot match: folder '{folder}' does not exist{hint}"
    return f"input path '{path}' does not exist{hint}"
