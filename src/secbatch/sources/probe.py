"""How many rows an input has, without reading it all: what `plan` needs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from secbatch.sources.piece import Piece

if TYPE_CHECKING:
    from secbatch.sources.open import Source

SAMPLE_BYTES = 2 << 20  # of the files as stored


@dataclass(frozen=True)
class RowEstimate:
    """A number of rows (sentences, where documents are split)."""

    rows: int
    exact: bool


def estimate_rows(source: "Source") -> RowEstimate:
    """The rows of `source`: exact from Parquet footers or where all was read, else from its first megabytes."""
    if source.rows_in_footers is not None and source.sentences is None:
        return RowEstimate(source.rows_in_footers, True)
    rows = read = 0
    in_documents = 0  # rows before sentences were split
    last = ("", 0)  # file and row of the last one of them
    pieces = source.pieces()
    try:
        for piece in pieces:
            # What was read at once is counted whole: its sentences may come in several pieces.
            if source.bytes_read != read and read >= SAMPLE_BYTES and rows:
                return RowEstimate(_scaled(source, rows, in_documents, read), False)
            read = source.bytes_read
            rows += len(piece.rows)
            in_documents += _documents(piece, last)
            last = (piece.file, int(piece.rows[-1])) if len(piece.rows) else last
    finally:
        pieces.close()
    return RowEstimate(rows, True)


def _documents(piece: Piece, last: tuple[str, int]) -> int:
    """Documents of which the first sentence is in `piece`; the one named `last` has begun before."""
    import numpy as np

    if not len(piece.rows):
        return 0
    goes_on = (piece.file, int(piece.rows[0])) == last
    return int(np.count_nonzero(np.diff(piece.rows))) + (0 if goes_on else 1)


def _scaled(source: "Source", rows: int, documents: int, read: int) -> int:
    if source.rows_in_footers is not None:
        return round(rows / max(1, documents) * source.rows_in_footers)
    return round(rows / read * source.bytes_total)
