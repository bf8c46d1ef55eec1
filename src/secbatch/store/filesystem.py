"""Durable steps on a local file system: write, fsync, rename; and what is refused."""

import contextlib
import errno
import io
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from secbatch import file_size_limit
from secbatch.errors import OutputError, UnfitOutputError
from secbatch.store import faults
from secbatch.store.layout import Layout

NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "9p", "afs"}
FEW, SYNCERS = 4, 8  # files that are fsynced one after another, and threads for more
NETWORK_FUSE = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "fuse.blobfuse")


def explain(error: OSError, path: Path) -> OutputError:
    """One sentence for an operating system's refusal to write at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"The disk of '{path}' is full; free space and run again, finished work is kept and reused.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"Output '{path}' is not writable ({error.strerror}); choose another or mend its rights.")
    too_large = file_size_limit.refused(error, path)
    return too_large or OutputError(f"Output '{path}' cannot be written: {error.strerror or error}.")


SHORT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


def refuses_to_read(error: OSError) -> bool:
    """Whether the file may be whole: rights, open files or memory are short. Else it is not there, or damaged."""
    return isinstance(error, PermissionError) or error.errno in {*SHORT_OF_FILES, errno.ENOMEM}


def explain_read(error: OSError, path: Path) -> OutputError:
    """One sentence for an operating system's refusal to read what belongs to an output."""
    remedy = "mend its rights"
    if error.errno in SHORT_OF_FILES:
        remedy = "let the process have more open files (ulimit -n)"
    elif error.errno == errno.ENOMEM:
        remedy = "see what has taken the memory"
    said = os.strerror(error.errno) if error.errno else error.strerror  # Arrow's own words have no end
    return OutputError(f"'{path}' cannot be read ({said}); {remedy} and run again.")


def check_output_place(path: Path) -> None:
    """Refuses what cannot keep the promises of the store: object stores and network file systems."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a URI; Path has made one slash of two
        written = str(path).replace(":/", "://", 1)  # as the job has it, so that a password in it is left out
        raise UnfitOutputError(
            f"Output '{written}' is not a local folder; write to a local disk and copy it from there."
        )
    if str(path).startswith("~"):  # Arrow takes it for somebody's home, and Python for a name like any other
        raise UnfitOutputError(f"Output '{path}' begins with '~', which is not known here; write the whole path.")
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # not `exists`, nor `resolve` since Python 3.13: links that lead in a circle are none to them
        if not path.exists() and path.is_symlink():
            raise OutputError(
                f"Output '{path}' is a link to '{path.readlink()}', which is not there; make that folder."
            )
        real = path.resolve()
        kind = _file_system_type(path)
    except OSError as error:  # a name that is too long; links that lead in a circle
        raise explain(error, path) from None
    if (internal := Layout(path).internal.name) in real.parts:  # `OUT/data` leads there, too
        other = Path(*real.parts[: real.parts.index(internal)])
        raise UnfitOutputError(
            f"Output '{path}' lies within what belongs to the output '{other}'; name a folder outside of it."
        )
    if kind in NETWORK_FILE_SYSTEMS or (kind or "").startswith(NETWORK_FUSE):
        raise UnfitOutputError(
            f"Output '{path}' is on a network file system ({kind}), where renames and locks are not reliable; "
            "write to a local disk and copy it from there."
        )


def check_writable(path: Path) -> None:
    """Raises OutputError where the folder `path` could not be made, or written to: for whom is to write nothing."""
    there = path
    while not there.exists():
        there = there.parent
    number = errno.ENOTDIR if not there.is_dir() else errno.EACCES
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise explain(OSError(number, os.strerror(number)), path)


def _file_system_type(path: Path) -> str | None:
    try:
        mounts = Path("/proc/self/mounts").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError:  # no /proc: not Linux, nothing to look up
        return None
    real = str(path.resolve())
    best, kind = "", None
    for line in filter(None, mounts):
        _, mount, mount_kind, *_ = line.split(" ")
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount)  # as spaces stand there
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, mount_kind
    return kind


def make_folder(path: Path) -> None:
    """Makes `path` and what is missing above it, durably."""
    for parent in add_folder(path):
        try:
            sync_folder(parent)
        except OSError as error:
            raise explain(error, path) from None


def add_folder(path: Path) -> list[Path]:
    """Makes `path` and what is missing above it. Returns the folders whose new names are to be made durable."""
    if path.is_dir():
        return []
    try:
        changed = add_folder(path.parent)
        if path.is_dir():  # `a/..` is there once `a` is
            return changed
        if path.exists() and not path.is_dir():  # another run may have made it at this moment
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path.mkdir(exist_ok=True)
        faults.record("folder", path)
    except OSError as error:
        raise explain(error, path) from None
    return [*changed, path.parent]


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    _sync(path)
    faults.record("fsync folder", path)


def sync_folders(paths: Iterable[Path]) -> None:
    """Makes the names in several folders durable, each once. Raises OutputError."""
    folders = list(dict.fromkeys(paths))
    sync_together([(folder, folder) for folder in folders])
    for folder in folders:
        faults.record("fsync folder", folder)


def sync_together(files: Sequence[tuple[Path, Path]]) -> None:
    """fsyncs files or folders side by side: what the disk does for one serves all that wait.

    Each comes with the path that the OutputError names where the disk refuses.
    """

    def sync(file: tuple[Path, Path]) -> None:
        try:
            _sync(file[0])
        except OSError as error:
            raise explain(error, file[1]) from None

    if len(files) < FEW:
        for file in files:
            sync(file)
        return
    with ThreadPoolExecutor(SYNCERS, "fsync") as pool:
        list(pool.map(sync, files))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle_names(root: Path, inside: Path) -> None:
    """Makes durable what a killed process may have renamed, linked or made without coming to its fsync.

    `root`: the output; `inside`: the folder in it that is the store's own. What follows may then take every name that
    it finds for one that a power loss leaves in place.
    """
    for folder in root.parents:
        with contextlib.suppress(PermissionError):  # a folder that may not be read was not made by a run
            sync_folder(folder)
    sync_folders([root, *(Path(place) for place, _, _ in os.walk(inside))])


class WatchedFile(io.FileIO):
    """A new file whose writes are known to `faults`."""

    def __init__(self, path: Path, step: str) -> None:
        super().__init__(path, "wb")
        self._place, self._step = path, step
        faults.record("create", path)

    def write(self, data: Any) -> int:
        whole = memoryview(data).cast("B")
        start, written = self.tell(), 0
        while written < len(whole):  # a nearly full disk takes a part of a write
            written += super().write(whole[written:]) or 0
        faults.record("write", self._place, start, bytes(whole) if faults._record else b"")
        faults.reach(f"{self._step}: amid the write")
        return written


def link_durably(source: Path, path: Path, step: str) -> None:
    """Gives a file that is durable already a second name; nothing is done where that name is taken.

    For files whose name their content decides.
    """
    make_folder(path.parent)
    try:
        faults.reach(f"{step}: before the write")
        if not path.exists():
            path.hardlink_to(source)
            faults.record("link", source, path)
        sync_folder(path.parent)
        faults.reach(f"{step}: after its rename")
    except OSError as error:
        raise explain(error, path) from None


def rename_durably(written: Path, path: Path, step: str) -> None:
    """Gives a new file in the same folder, which is fsynced already, its name."""
    try:
        rename(written, path)
        faults.reach(f"{step}: after its rename")
    except OSError as error:
        raise explain(error, path) from None


def sync_file(path: Path) -> None:
    _sync(path)
    faults.record("fsync", path)


def rename(path: Path, target: Path) -> None:
    """Renames durably, in place of what is at `target`."""
    path.rename(target)
    faults.record("rename", path, target)
    sync_folder(target.parent)


def remove_file(path: Path) -> None:
    path.unlink(missing_ok=True)
    faults.record("remove", path)


def remove_tree(path: Path) -> None:
    """Removes a folder with all that is in it."""
    shutil.rmtree(path)
    faults.record("remove tree", path)
