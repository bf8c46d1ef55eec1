"""Files of an object store, read through its bad moments."""

import io
import re
from typing import TYPE_CHECKING, Any

from secbatch.errors import SourceLostError, cause
from secbatch.patience import patiently

if TYPE_CHECKING:
    import pyarrow.fs as pafs

ATTEMPTS = 7  # about half a minute in all; the clients of pyarrow have tried several times for each of them
# What an answer of the store says that will be the same in a minute.
_FINAL = re.compile(
    r"ACCESS_DENIED|NO_SUCH|NOT_FOUND|INVALID|UNAUTHORIZED|FORBIDDEN|SIGNATURE|\b(?:400|401|403|404|416)\b"
    r"|does not exist|permission denied|Path does not",
    re.IGNORECASE,
)


def may_pass(error: Exception) -> bool:
    """Whether a failure of a remote file system is worth another attempt."""
    final = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)
    return isinstance(error, OSError) and not final and not _FINAL.search(str(error))


def is_remote(filesystem: "pafs.FileSystem") -> bool:
    import pyarrow.fs as pafs

    if isinstance(filesystem, pafs.SubTreeFileSystem):
        return is_remote(filesystem.base_fs)
    return not isinstance(filesystem, pafs.LocalFileSystem)


class RemoteFile(io.RawIOBase):
    """A remote file that is opened anew, at the place it had come to, when a read fails.

    Raises SourceLostError when it fails for good: a failure of the storage must not look like damage of the file.
    """

    def __init__(self, filesystem: "pafs.FileSystem", path: str, shown: str) -> None:
        self._filesystem, self._path, self._shown = filesystem, path, shown
        self._place = 0
        self._file: Any = None
        self._size = int(self._patiently(lambda: self._opened().size()))

    def _opened(self) -> Any:
        if self._file is None:
            self._file = self._filesystem.open_input_file(self._path)
        return self._file

    def _patiently(self, action: Any) -> Any:
        def once() -> Any:
            try:
                return action()
            except OSError:
                broken, self._file = self._file, None
                if broken is not None:
                    self._let_go(broken)
                raise

        try:
            return patiently(once, ATTEMPTS, may_pass)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise SourceLostError(
                f"'{self._shown}' cannot be read, after {ATTEMPTS} attempts ({cause(error)}); finished "
                "work is kept, run again when the storage answers."
            ) from None

    @staticmethod
    def _let_go(file: Any) -> None:
        try:
            file.close()
        except OSError:
            return  # it was broken; the new one counts

    def size(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._size - self._place if size is None or size < 0 else size

        def once() -> bytes:
            file = self._opened()
            file.seek(min(self._place, self._size))
            return bytes(file.read(wanted))

        part: bytes = self._patiently(once)
        self._place += len(part)
        return part

    def readinto(self, buffer: Any) -> int:
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        if self._file is not None:
            self._let_go(self._file)
            self._file = None
        super().close()
