"""A checksum at the end of a file, of its name and all that stands in it: under another name it does not pass."""

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

BYTES = 4  # CRC-32: four gigabytes a second, and no flipped bit gets through
BLOCK = 1 << 20  # bytes looked at at a time


def with_checksum(name: str, content: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """`content`, and then the checksum of a file with this name."""
    found = zlib.crc32(name.encode())
    for stretch in content:
        found = zlib.crc32(stretch, found)
        yield stretch
    yield found.to_bytes(BYTES, "little")


def checksum_of(path: Path) -> int:
    """The checksum of what stands in a file that has none of its own. Raises OSError."""
    found, block = 0, memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            found = zlib.crc32(block[:read], found)
    return found


def checksum_stands(path: Path) -> bool:
    """Whether the file is the one that was written under its name. Raises OSError."""
    found, block = zlib.crc32(path.name.encode()), memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size - BYTES
        while left > 0 and (read := file.readinto(block[:left])):
            found = zlib.crc32(block[:read], found)
            left -= read
        return left == 0 and file.read(BYTES) == found.to_bytes(BYTES, "little")
