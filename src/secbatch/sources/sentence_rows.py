"""Document rows to sentence rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from secbatch.errors import InputError
from secbatch.sources.piece import Piece
from secbatch.sources.sentences import split_sentences

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("sentence", "sentence_index", "sentence_start", "sentence_end")
PIECE_BYTES = 16 << 20  # aimed at; repeating the other columns may not blow memory up


class SentenceRows:
    """Splits the rows of a document column.

    `sentence` (string) takes the document's place; `sentence_index` (int32, 0-based), `sentence_start` and
    `sentence_end` (int32, character offsets in the document) follow it; the other columns are repeated. A null
    or blank document gives one row with nulls, so that a row that goes in comes out.
    """

    def __init__(self, column: str, schema: "pa.Schema") -> None:
        import pyarrow as pa

        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise InputError(f"input.sentences: column '{column}' is {kind}, not text")
        taken = [name for name in schema.names if name in COLUMNS and name != column]
        if taken:
            raise InputError(
                f"input.sentences adds the columns {', '.join(COLUMNS)}, but the input already has "
                f"'{taken[0]}'; rename that column"
            )
        self.column = column
        self.place = schema.names.index(column)
        added = [
            pa.field("sentence", pa.string()),
            *(pa.field(name, pa.int32()) for name in COLUMNS[1:]),
        ]
        fields = list(schema)
        self.schema = pa.schema([*fields[: self.place], *added, *fields[self.place + 1 :]])

    def split(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The same rows, one for each sentence; errors of a row go to all of its sentences."""
        for piece in pieces:
            rejects = piece.rejects
            start = 0
            while start < len(piece.rows) or rejects:
                part, start = self._part(piece, start)
                part.rejects, rejects = rejects, []
                yield part

    def _part(self, piece: Piece, start: int) -> tuple[Piece, int]:
        """Sentences of the documents from `start` on, about PIECE_BYTES of them, and where the next part starts."""
        import pyarrow as pa

        others = piece.table.drop_columns([self.column])
        row_bytes = max(1, others.nbytes // max(1, piece.table.num_rows))
        documents = piece.table.column(self.column)
        taken: list[int] = []
        sentences: list[str | None] = []
        indices: list[int | None] = []
        starts: list[int | None] = []
        ends: list[int | None] = []
        place, size = start, 0
        while place < len(piece.rows) and size < PIECE_BYTES:
            text = documents[place].as_py()
            bounds = split_sentences(text) if text else []
            if bounds:
                sentences += [text[a:b] for a, b in bounds]
                indices += range(len(bounds))
                starts += [a for a, _ in bounds]
                ends += [b for _, b in bounds]
            else:
                for values in (sentences, indices, starts, ends):
                    values.append(None)
            count = max(1, len(bounds))
            taken += [place] * count
            size += len(text or "") + count * (row_bytes + 16)
            place += 1
        rows = np.array(taken, dtype=np.int64)
        repeated = others.take(pa.array(rows))
        added = [
            pa.array(sentences, pa.string()),
            *(pa.array(values, pa.int32()) for values in (indices, starts, ends)),
        ]
        columns = [*repeated.columns[: self.place], *added, *repeated.columns[self.place :]]
        errors = (
            {new: piece.errors[old] for new, old in enumerate(taken) if old in piece.errors} if piece.errors else {}
        )
        table = pa.Table.from_arrays(columns, schema=self.schema)
        return Piece(piece.file, table, piece.rows[rows], errors), place
