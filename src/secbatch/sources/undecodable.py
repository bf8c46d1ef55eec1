"""Bytes that a file's encoding cannot decode: how they pass through text as UTF-8, and what is said of them."""

import codecs
import re

from secbatch.errors import in_job_or_option

ERROR_HANDLER = "secbatch.mark-undecodable"
# UTF-8 of U+DC00 to U+DCFF, one for each byte value: lone surrogates, which are never valid UTF-8, so that a row with
# an undecodable byte is found by the same check as one with a broken UTF-8 sequence.
MARK = re.compile(rb"\xed[\xb0-\xb3][\x80-\xbf]")


def _marked(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end
    raise error


codecs.register_error(ERROR_HANDLER, _marked)


def bytes_of_the_file(text: bytes) -> bytes:
    """`text` with the bytes that could not be decoded as they stand in the file; all else stays UTF-8."""
    return MARK.sub(lambda mark: bytes([(mark[0][1] & 0x03) << 6 | mark[0][2] & 0x3F]), text)


def what_is_wrong(text: bytes, place: int, recoded_from: str | None) -> str:
    """A sentence's end on the bad byte at `place`; `recoded_from`: the file's encoding where that is not UTF-8."""
    if recoded_from is None:
        return (
            f"is not valid UTF-8 (byte 0x{text[place]:02x}); if the file is in another encoding, name it, for "
            f"example {in_job_or_option('encoding', 'cp1252')}"
        )
    byte = bytes_of_the_file(text[place : place + 3])[0]
    return f"is not valid {recoded_from} (byte 0x{byte:02x}); name the file's encoding in `input.encoding`"
