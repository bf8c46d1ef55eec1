"""What the first bytes of a file say that it is, whatever its name."""

import re

from secbatch.errors import in_job_or_option

COMPRESSED = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    # A size and the mark of a block, or of the end: a header may well start with the letters BZh.
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bz2"),
)
TAR_HEAD, TAR_CHECKSUM = 512, slice(148, 156)
LONGEST = 10  # bytes of these
TAR_PLACE = 257
TAR_MARKS = (b"ustar\x0000", b"ustar  \x00")


def compression_of(start: bytes) -> str | None:
    """How a file that starts so is compressed."""
    return next((name for mark, name in COMPRESSED if mark.match(start)), None)


def no_text(start: bytes, compression: str | None) -> str | None:
    """Why what starts so is no text: the end of a sentence that starts with the file's name.

    `start`: 512 bytes or more, decompressed where the file has a `compression`.
    """
    if start.startswith(b"PK\x03\x04"):
        return "is a zip archive or an Excel workbook; unpack it or save it as CSV"
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        return "is an Excel workbook or another Office document; save it as CSV"
    if start.startswith(b"PAR1"):
        unpack = "unpack it and " if compression else ""
        return f"is a Parquet file; {unpack}say {in_job_or_option('format', 'parquet')}"
    if start[TAR_PLACE : TAR_PLACE + 8] in TAR_MARKS or _has_tar_checksum(start):
        return "is a tar archive; unpack it and name the files that are in it"
    if compression and (within := compression_of(start)):
        return f"is compressed twice ({within} in {compression}); unpack it once"
    return None


def no_parquet(start: bytes) -> str | None:
    """What a file that is said to be Parquet, and is not, is instead: the end of a sentence, as of `no_text`."""
    if compression := compression_of(start):
        return f"is compressed ({compression}); unpack it"
    return None if start.startswith(b"PAR1") else no_text(start, None)


def _has_tar_checksum(start: bytes) -> bool:
    """Tar archives of the oldest kind have no mark: the sum of their first block's bytes stands in it."""
    head = start[:TAR_HEAD]
    written = head[TAR_CHECKSUM].strip(b" \0")
    if len(head) < TAR_HEAD or not re.fullmatch(rb"[0-7]+", written):
        return False
    return int(written, 8) == sum(head) - sum(head[TAR_CHECKSUM]) + 8 * ord(" ")
