"""Bytes of a file, decompressed and brought to UTF-8, block by block."""

import codecs
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from secbatch import host_memory
from secbatch.errors import (
    InputChangedError,
    InputError,
    JobError,
    SecbatchError,
    SourceLostError,
    cause,
    in_job_or_option,
    nearest,
)
from secbatch.sources.input_file import InputFile
from secbatch.sources.reading_faults import is_the_machines
from secbatch.sources.signatures import LONGEST, compression_of, no_text
from secbatch.sources.undecodable import ERROR_HANDLER, bytes_of_the_file

if TYPE_CHECKING:
    import pyarrow as pa

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16 LE, whose mark is the start of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UTF_32 = (("utf-32-le", 0), ("utf-32-be", 3))  # which of four bytes an ASCII character is in
COMMON_ENCODINGS = (
    *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "cp1251", "cp1250", "latin-1", "iso-8859-15"),
    *("shift_jis", "gb18030", "big5", "euc-kr", "koi8-r", "mac-roman"),
)
NOT_OF_FILES = ("idna", "punycode", "undefined", "unicode_escape", "unicode-escape", "raw-unicode-escape")
RAW_BUFFER = 1 << 20  # bytes asked of the storage at once
LARGE_WINDOW = "Frame requires too much memory"  # zstd's words; 128 MiB without a setting that Arrow does not have
UNPACKED_AT_ONCE = 1 << 16  # bytes of an archive that Arrow takes for one step
EMPTY_END = b"\x17rE8P\x90\x00\x00\x00\x00"  # of an empty stream of bzip2, behind its signature
EMPTY_BZIP2 = re.compile(b"BZh[1-9]" + re.escape(EMPTY_END))
EMPTY_BYTES = 14


class UnreadableFileError(Exception):
    """A whole file cannot be read; its text is the end of a sentence that starts with the file's name."""


def text_encoding(name: str) -> str:
    """The codec that `input.encoding` names, in Python's spelling. Raises JobError for an unknown one."""
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        info = None
    usable = info is not None and getattr(info, "_is_text_encoding", True) and info.incrementaldecoder is not None
    if info is None or not usable or info.name in NOT_OF_FILES:
        raise JobError(
            f"input.encoding: unknown encoding '{name}'{nearest(name, COMMON_ENCODINGS)}; "
            f"known are for example {', '.join(COMMON_ENCODINGS[:7])}"
        )
    return info.name


def refuse_wide_encoding(text: bytes) -> None:
    """UnreadableFileError for a start that only UTF-16 or UTF-32 has: files start with ASCII, as good as always."""
    if b"\0" not in text[:2]:
        return
    written = [place for place, byte in enumerate(text[:8]) if byte]  # of two ASCII characters in UTF-32, one in four
    wide = next((name for name, place in UTF_32 if written == [place, place + 4]), None)
    encoding = wide or ("utf-16-le" if text[1:2] == b"\0" else "utf-16-be")
    raise UnreadableFileError(
        f"looks like {encoding[:6].upper()} without a byte order mark; say {in_job_or_option('encoding', encoding)}"
    )


def broken_off(failure: str) -> str:
    """The sentence on a file that can be read up to some place only."""
    return f"{failure}; rows before this place are kept, fetch the file again for the rest"


def _refusals() -> tuple[type[Exception], ...]:
    """What a read raises: Arrow has a class of its own for what a library that decompresses has no number for."""
    import pyarrow as pa

    return OSError, ValueError, pa.ArrowException


class _WithoutEmptyStreams:
    """The bytes of a bzip2 file but its empty streams, as of nights on which nothing was appended: Arrow fails at them.

    Each begins at a byte of its own and is 14 bytes that nothing else is.
    """

    def __init__(self, stored: "pa.NativeFile") -> None:
        self._stored = stored
        self._ready = bytearray()
        self._held = b""  # may begin an empty stream
        self._ended = False
        self._served = False

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and not self._ended:
            part = bytes(self._stored.read(UNPACKED_AT_ONCE))
            self._ended = not part
            rest = EMPTY_BZIP2.sub(b"", self._held + part)
            keep = 0 if self._ended else EMPTY_BYTES - 1
            self._ready += rest[: max(0, len(rest) - keep)]
            self._held = rest[max(0, len(rest) - keep) :]
            if self._ended and not self._ready and not self._served:
                self._ready += b"BZh9" + EMPTY_END  # there is nothing else
        given = bytes(self._ready[:size])
        del self._ready[:size]
        self._served = self._served or bool(given)
        return given


class _Packed(io.RawIOBase):
    """The bytes of an archive, of which each read between the two places of `careful` gets one."""

    def __init__(self, stored: "pa.NativeFile | _WithoutEmptyStreams", careful: tuple[int, int]) -> None:
        self._stored = stored
        self.careful = careful
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        start, stop = self.careful
        if self.given < stop:
            size = min(size, max(1, start - self.given))
        part = bytes(self._stored.read(size))
        self.given += len(part)
        return part


class ByteStream:
    """A file's bytes after decompression. Full blocks: a short read is the end.

    `failure` is set when the compressed data break off or are corrupt, or a file becomes shorter while it is read; what
    came before is served first.
    """

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.failure: str | None = None
        self._served = 0
        self._raw: pa.NativeFile | None = None
        self._stream: Any = None
        self._packed: _Packed | None = None
        self._careful = False  # near a place where a read has failed
        self._again = 0  # bytes that are served already, and unpacked again after that
        self._open()

    def _open(self, careful: tuple[int, int] = (0, 0)) -> None:
        import pyarrow as pa

        self._raw = self.file.open()
        # What was cut off since the input was listed was there as well.
        self._size = max(self._raw.size(), self.file.size)
        found = compression_of(self._raw.read(LONGEST))
        self._raw.seek(0)
        self.compression = self.file.compression or found
        self._misnamed = self.compression != found
        self._stream = pa.BufferedInputStream(self._raw, max(1 << 12, min(RAW_BUFFER, self.file.size)))
        if self.compression:
            stored = _WithoutEmptyStreams(self._stream) if self.compression == "bz2" else self._stream
            self._packed = _Packed(stored, careful)
            self._stream = pa.CompressedInputStream(pa.PythonFile(self._packed, mode="r"), self.compression)

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer only at the end of the file, or of what can be decompressed."""
        if self.failure is not None:
            return b""
        parts: list[bytes] = []
        wanted = size
        while wanted:
            place = self._packed.given if self._packed else 0
            try:
                part = self._stream.read(self._step(wanted))
            except _refusals() as error:
                if not self.compression or is_the_machines(error):
                    raise
                if self._misnamed and not self._served:
                    self.close()
                    raise UnreadableFileError(
                        f"holds no {self.compression} data, as its name says; give it the ending of what it is "
                        "(a download may have been unpacked on its way)"
                    ) from None
                if LARGE_WINDOW in str(error) and not self._served:
                    self.close()
                    raise UnreadableFileError(
                        "takes more than 128 MiB to unpack (zstd --long); compress it again with --long=27 or less"
                    ) from None
                if not self._careful and self._packed:
                    self._read_carefully(place, self._packed.given)
                    continue
                self.failure = f"breaks off or is corrupt ({self.compression}: {cause(error)})"
                break
            if not part:
                self._check_length()
                break
            if self._again:
                self._again -= len(part)
                continue
            parts.append(part)
            self._served += len(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _step(self, wanted: int) -> int:
        """A read that fails loses what it had unpacked already."""
        if self._packed is None:
            return wanted
        # What Arrow calls corrupt need not be: it stumbles over an empty stream of bzip2 between others.
        self._careful = self._careful and self._packed.given <= self._packed.careful[1]
        return min(self._again or (1 if self._careful else wanted), UNPACKED_AT_ONCE)

    def _read_carefully(self, start: int, stop: int) -> None:
        """Begins anew after a read that failed between two places of the archive: all that can be unpacked counts.

        Arrow loses what the piece that it unpacks has before the fault: it is given bytes one at a time.
        """
        self.close()
        self._careful, self._again = True, self._served
        self._open(careful=(max(0, start - UNPACKED_AT_ONCE), stop))

    def _check_length(self) -> None:
        """What was cut off, by a log rotation for example, must not count as rows that are gone."""
        assert self._raw is not None
        read = self._raw.tell()
        if not self.compression and read < self._size:
            self.failure = f"became shorter while it was read ({read:,} of {self._size:,} bytes were there)"

    def position(self) -> int:
        """Bytes of the stored file that are consumed. Any thread may ask."""
        raw = self._raw
        return int(raw.tell()) if raw is not None and not raw.closed else self.file.size

    def close(self) -> None:
        # A closed stream keeps its buffer, of up to RAW_BUFFER, and readers of files that are through live on.
        stream, raw, self._stream, self._raw, self._packed = self._stream, self._raw, None, None, None
        if stream is not None:
            stream.close()
        if raw is not None:
            raw.close()


class Utf8Stream:
    """A file's text as UTF-8 bytes, byte order mark removed; the mark counts for more than a named encoding.

    Bytes that the encoding cannot decode come out as invalid UTF-8, see `undecodable`.
    """

    def __init__(self, file: InputFile, encoding: str | None) -> None:
        self.bytes = ByteStream(file)
        head = self.bytes.read(1 << 16)
        if reason := no_text(head, self.bytes.compression):
            self.bytes.close()
            raise UnreadableFileError(reason)
        mark, marked = next(((m, e) for m, e in BYTE_ORDER_MARKS if head.startswith(m)), (b"", None))
        self.marked = bool(mark)
        self.encoding = marked or (text_encoding(encoding) if encoding else "utf-8")
        if not mark and self.encoding in ("utf-16", "utf-32"):
            self.bytes.close()
            raise UnreadableFileError(
                f"has no byte order mark, as {self.encoding} needs; name {self.encoding}-le or {self.encoding}-be "
                "in `input.encoding`"
            )
        self.skipped = 0  # bytes of a byte order mark before the first byte served
        if self.encoding in ("utf-8", "utf-8-sig"):
            self._decoder = None
            while head.startswith(codecs.BOM_UTF8):  # programs that put one before another's are about
                self.skipped += len(mark)
                head = head[len(mark) :]
            other = next((encoding for also, encoding in BYTE_ORDER_MARKS if head.startswith(also)), None)
            if mark and other:
                self.bytes.close()
                raise UnreadableFileError(
                    f"has the byte order marks of utf-8 and of {other}, one after the other; write it with one of them"
                )
        else:
            self._decoder = codecs.getincrementaldecoder(self.encoding)(ERROR_HANDLER)
        self._head: bytes | None = head
        self._started = False
        self.served = 0  # bytes of text

    @property
    def recoded(self) -> bool:
        """True when the bytes served are not those of the file: offsets into it are then unknown."""
        return self._decoder is not None

    @property
    def recoded_from(self) -> str | None:
        """The file's encoding, where it is another one than that of the bytes served."""
        return self.encoding if self.recoded else None

    def as_stored(self, text: bytes) -> bytes:
        """A piece of the text for the rejects: what could not be decoded stands in it as in the file."""
        return bytes_of_the_file(text) if self.recoded else text

    @property
    def failure(self) -> str | None:
        return self.bytes.failure

    def read(self, size: int) -> bytes:
        """About `size` bytes of UTF-8 text (the same pieces every time); empty only at the end."""
        while True:
            block = self._take_head(size)
            if self._decoder is not None:
                text = self._decoder.decode(block, final=not block)
                if text and not self._started:
                    text = text.lstrip("\ufeff")
                    self._started = True
                if block and not text:
                    continue
                block = text.encode("utf-8", "surrogatepass")
            self.served += len(block)
            return block

    def _take_head(self, size: int) -> bytes:
        if self._head is None:
            return self.bytes.read(size)
        head, self._head = self._head, None
        if len(head) > size:
            head, self._head = head[:size], head[size:]
            return head
        return head + self.bytes.read(size - len(head)) if len(head) < size else head

    def position(self, consumed: int) -> int:
        """Bytes of the stored file behind the first `consumed` bytes of text (an estimate where recoded)."""
        if self._decoder is None and self.bytes.compression is None:
            return self.skipped + consumed
        return int(self.bytes.position() * consumed / max(1, self.served))

    def close(self) -> None:
        self.bytes.close()


def opened(file: InputFile, action: Callable[[], Any]) -> Any:
    """`action()`, with a failure of the storage, or a lack of memory, as an error that names the file."""
    try:
        return action()
    except MemoryError as error:
        raise SecbatchError(
            f"'{file.path}' cannot be read: {host_memory.refused(error)}; where it asks for more than it can need, it "
            "is damaged: fetch it again"
        ) from None
    except FileNotFoundError:
        raise InputChangedError(f"'{file.path}' is gone since the input was listed; run again") from None
    except PermissionError:
        raise InputError(f"'{file.path}' may not be read: permission denied; mend its rights") from None
    except OSError as error:
        raise SourceLostError(f"'{file.path}' cannot be read: {cause(error)}") from None
