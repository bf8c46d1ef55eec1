"""What the first bytes of a file say that it is, whatever its name."""

import re

from secbatch.errors import in_job_or_option

COMPRESSED = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    # A size and the mark of a block, or of the end: a header may well start with the letters BZh.
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bz2"),
)
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
    if start[TAR_PLACE : TAR_PLACE + 8] in TAR_MARKS:
        return "is a tar archive; unpack it and name the files that are in it"
    if compression and (within := compression_of(start)):
        return f"is compressed twice ({within} in {compression}); unpack it once"
    return None
