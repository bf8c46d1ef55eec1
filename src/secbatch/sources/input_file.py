"""A file of the input, and what its name says of it."""

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secbatch.errors import InputChangedError
from secbatch.sources.remote import RemoteFile, is_remote

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
        import pyarrow.fs as pafs

        if not is_remote(self.filesystem):
            # To open a pipe waits for whoever writes into it, and a device may never end.
            if self.filesystem.get_file_info(self.fs_path).type in (pafs.FileType.Unknown, pafs.FileType.Directory):
                raise InputChangedError(f"'{self.path}' is no file any more, as when the input was listed; run again")
            return self.filesystem.open_input_file(self.fs_path)
        return pa.PythonFile(RemoteFile(self.filesystem, self.fs_path, self.path), mode="r")


def file_format(name: str) -> tuple[str | None, str | None]:
    """(format, compression) by a file's ending; None where the ending says nothing."""
    name = name.lower()
    stem, ending = posixpath.splitext(name)
    compression = COMPRESSIONS.get(ending)
    if compression:
        ending = posixpath.splitext(stem)[1]
    return FORMATS.get(ending), compression


def input_file(shown: str, info: "pafs.FileInfo", format_: str, filesystem: "pafs.FileSystem") -> InputFile:
    """What the file system says of a file, as one of the input. `shown`: its path as the job names it."""
    compression = None if format_ == "parquet" else file_format(info.path)[1]
    modified = info.mtime_ns / 1e9 if info.mtime_ns else None
    return InputFile(shown, int(info.size or 0), format_, compression, info.path, filesystem, modified)
