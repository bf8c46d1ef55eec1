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
Sentence = tuple[int, int | None, int | None, int | None, str | None]  # place in the piece, index, start, end, text
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
            for sentences in self._runs(piece):
                part = self._part(piece, sentences)
                part.rejects, rejects = rejects, []
                yield part
            if rejects:
                yield Piece(piece.file, self.schema.empty_table(), piece.rows[:0], rejects=rejects)

    def _runs(self, piece: Piece) -> "Iterator[list[Sentence]]":
        """The piece's sentences, in runs whose rows are about PIECE_BYTES."""
        others = piece.table.drop_columns([self.column])
        average = others.nbytes // max(1, piece.table.num_rows)
        documents = piece.table.column(self.column)
        run: list[Sentence] = []
        size = 0
        for place in range(len(piece.rows)):
            text = documents[place].as_py()
            bounds = split_sentences(text) if text else []
            exact = len(bounds) * others.nbytes > PIECE_BYTES  # one large value may be repeated very often
            row_bytes = 16 + (others.slice(place, 1).nbytes if exact else average)
            whole: list[Sentence] = [
                (place, index, left, right, text[left:right]) for index, (left, right) in enumerate(bounds)
            ]
            for sentence in whole or [(place, None, None, None, None)]:
                run.append(sentence)
                size += row_bytes + len(sentence[-1] or "")
                if size >= PIECE_BYTES:
                    yield run
                    run, size = [], 0
        if run:
            yield run

    def _part(self, piece: Piece, sentences: "list[Sentence]") -> Piece:
        import pyarrow as pa

        places, indices, starts, ends, texts = zip(*sentences, strict=True)
        rows = np.array(places, dtype=np.int64)
        repeated = piece.table.drop_columns([self.column]).take(pa.array(rows))
        added = [
            pa.array(texts, pa.string()),
            *(pa.array(values, pa.int32()) for values in (indices, starts, ends)),
        ]
        columns = [*repeated.columns[: self.place], *added, *repeated.columns[self.place :]]
        errors = (
            {new: piece.errors[old] for new, old in enumerate(places) if old in piece.errors} if piece.errors else {}
        )
        table = pa.Table.from_arrays(columns, schema=self.schema)
        return Piece(piece.file, table, piece.rows[rows], errors)
