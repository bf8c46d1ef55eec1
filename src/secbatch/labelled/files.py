"""The files that labelled examples come from, and what is done about rows that give none."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from secbatch.errors import InputError
from secbatch.labelled.examples import DataFile, Malformed
from secbatch.sources.input_file import InputFile
from secbatch.sources.streams import opened

SHOWN = 5  # malformed rows that a sentence names
HASHED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class LabelledFiles:
    """Which files, and how they are read."""

    path: str  # file, glob, folder, or a URI of an object store
    format: Literal["csv", "parquet", "jsonl", "conll"] | None = None  # None: by the file's ending
    delimiter: str | None = None  # of CSV; None: found in the header
    encoding: str | None = None  # None: by byte order mark, else UTF-8
    malformed: Literal["stop", "skip"] = "stop"  # rows that give no example


def hashed(files: Sequence[InputFile]) -> tuple[DataFile, ...]:
    """Each file with the sha256 of its bytes. Raises InputError for one that cannot be read."""

    def one(file: InputFile) -> DataFile:
        digest, size = hashlib.sha256(), 0
        with file.open() as stream:
            while block := stream.read(HASHED_AT_ONCE):
                digest.update(block)
                size += len(block)
        return DataFile(file.path, size, digest.hexdigest())

    return tuple(opened(file, lambda file=file: one(file)) for file in files)  # type: ignore[misc]


def judge(found: Sequence[Malformed], files: LabelledFiles, what: str) -> tuple[str, ...]:
    """The notices on rows that give no example. Raises InputError unless they are to be skipped.

    `what` names the kind of rows: "rows" or "lines".
    """
    if not found:
        return ()
    first = found[0]
    text = f"{first.place}: {first.reason}"
    if len(found) > 1:
        others = [str(one.place.row) for one in found if one.place.file == first.place.file][1 : SHOWN + 1]
        more = f"; {len(found)} malformed {what} in all"
        if others:
            dots = ", …" if len(found) > len(others) + 1 else ""
            more += f", the next {'is' if len(others) == 1 else 'are'} {', '.join(others)}{dots}"
        text += more
    if files.malformed == "stop":
        raise InputError(f"{text}; mend the file, or set data.malformed: skip to leave such {what} out")
    return (f"{len(found)} malformed {what if len(found) > 1 else what[:-1]} left out ({text})",)
