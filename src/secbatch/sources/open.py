"""The door to the input: `open_source` looks at every file once, then shards are streamed from them."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from secbatch.errors import InputChangedError, InputError, JobError
from secbatch.job import Input
from secbatch.sources import csv_file, csv_header, jsonl_columns, jsonl_file, parquet_file, unified_schema
from secbatch.sources.columns import check_known, column_types
from secbatch.sources.input_file import InputFile
from secbatch.sources.paths import find_files, settled
from secbatch.sources.piece import Piece, Reader, unreadable_piece
from secbatch.sources.sentence_rows import SentenceRows
from secbatch.sources.shard import Shard
from secbatch.sources.slicing import slice_pieces
from secbatch.sources.streams import UnreadableFileError, opened, text_encoding

if TYPE_CHECKING:
    import pyarrow as pa

LOOKERS = 16  # threads that read headers and footers: on an object store each look is a round trip


@dataclass(frozen=True)
class _Unreadable:
    """A file of which not even the start can be read; it goes to the rejects as a whole."""

    file: InputFile
    reason: str

    def pieces(self, schema: "pa.Schema") -> Iterator[Piece]:
        yield unreadable_piece(self.file.path, self.reason, schema)


@dataclass(frozen=True)
class _Contents:
    """What looking at the files gave."""

    schema: "pa.Schema"  # of the rows as the files hold them
    readers: tuple[Reader | _Unreadable, ...]  # one for each file, in order
    notices: tuple[str, ...]


class Source:
    """The rows of a job's input. `shards()` may be called again and gives the same shards again."""

    def __init__(
        self,
        files: tuple[InputFile, ...],
        contents: _Contents,
        notices: tuple[str, ...],
        sentences: SentenceRows | None,
        shard_rows: Callable[[int], int],
        waiting: int = 0,
    ) -> None:
        self.waiting = waiting  # files that are left for the next run
        self.files = files
        self.notices = notices
        self.schema: pa.Schema = sentences.schema if sentences else contents.schema
        self.bytes_total = sum(file.size for file in files)
        self.sentences = sentences
        self._contents = contents
        self._shard_rows = shard_rows
        self._finished_bytes = 0
        self._current: Reader | None = None
        self.rows_given = 0  # rows of the shards given out so far
        self._marks: deque[tuple[int, int]] = deque([(0, 0)])  # rows and bytes read up to a place; the first is passed

    @property
    def bytes_read(self) -> int:
        """Bytes of the files, as stored, that are read so far: 0 to `bytes_total`. Any thread may ask."""
        current = self._current
        return min(self.bytes_total, self._finished_bytes + (current.position() if current else 0))

    @property
    def bytes_given(self) -> int:
        """Bytes of the files, as stored, that the shards given out so far are made of: what is read ahead of a
        slow model does not count. Any thread may ask."""
        before_rows = before_bytes = 0
        for rows, bytes_read in list(self._marks):
            if rows > self.rows_given:
                share = (self.rows_given - before_rows) / (rows - before_rows)
                return int(before_bytes + share * (bytes_read - before_bytes))
            before_rows, before_bytes = rows, bytes_read
        return before_bytes

    def shards(self) -> Iterator[Shard]:
        """The rows, shard by shard, in the order of the files."""
        self.rows_given, self._marks = 0, deque([(0, 0)])
        for shard in slice_pieces(self._marked(self.pieces()), self.schema, self._shard_rows):
            self.rows_given += shard.num_rows
            while len(self._marks) > 1 and self._marks[1][0] <= self.rows_given:
                self._marks.popleft()
            yield shard

    def _marked(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Notes, with each piece, how many rows and bytes are read with it."""
        rows = 0
        for piece in pieces:
            rows += len(piece.rows)
            self._marks.append((rows, self.bytes_read))
            yield piece

    def pieces(self) -> Generator[Piece, None, None]:
        """The rows as they come off the files, before they are cut into shards."""
        self._finished_bytes = 0
        for file, reader in zip(self.files, self._contents.readers, strict=True):
            if isinstance(reader, _Unreadable):
                pieces = reader.pieces(self._contents.schema)
            else:
                self._current = reader
                pieces = _naming_file(file, reader.pieces())
            yield from self.sentences.split(pieces) if self.sentences else pieces
            self._current = None
            self._finished_bytes += file.size


def _naming_file(file: InputFile, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """`pieces`, with a failure of the storage as an error that names the file."""
    end = object()
    try:
        while (piece := opened(file, lambda: next(pieces, end))) is not end:
            yield piece
    except UnreadableFileError as error:
        raise InputChangedError(f"{file.path} {error}; it has changed since the input was listed") from None


def open_source(
    spec: Input, shard_rows: Callable[[int], int], earlier: "Mapping[str, pa.DataType] | None" = None
) -> Source:
    """The source that `spec` describes; `shard_rows(i)` is the row target of shard number i.

    `earlier`: types that columns of Parquet files have from earlier inputs. Reads the header or footer of every file.
    Raises InputError (no such file, nothing readable, files that do not fit together, no such column) and JobError
    (unknown type or encoding).
    """
    declared = column_types(spec.types)
    if spec.encoding is not None:
        text_encoding(spec.encoding)
    found = settled(find_files(spec.path, spec.format), spec.settle)
    format_ = found.files[0].format
    if format_ == "csv":
        contents = _csv(spec, found.files, declared)
    elif format_ == "jsonl":
        contents = _jsonl(spec, found.files, declared)
    else:
        contents = _parquet(spec, found.files, earlier)
    sentences = None
    if spec.sentences is not None:
        check_known(spec.sentences, tuple(contents.schema.names), "input.sentences")
        sentences = SentenceRows(spec.sentences, contents.schema)
    return Source(found.files, contents, found.notices + contents.notices, sentences, shard_rows, found.waiting)


def _look(files: Sequence[InputFile], look: Callable[[InputFile], Any]) -> list[Any]:
    """`look(file)` for every file, in order; an unreadable file gives an _Unreadable.

    Raises InputError when not one of them can be read.
    """

    def one(file: InputFile) -> Any:
        try:
            return opened(file, lambda: look(file))
        except UnreadableFileError as error:
            return _Unreadable(file, str(error))

    with ThreadPoolExecutor(max_workers=min(LOOKERS, len(files))) as pool:
        results = list(pool.map(one, files))
    _refuse_if_nothing(results)
    return results


def _refuse_if_nothing(results: Iterable[Any]) -> None:
    bad = []
    for result in results:
        if not isinstance(result, _Unreadable):  # the rest need not be looked at
            return
        bad.append(result)
    others = f" (and so it is with {len(bad) - 1} other files)" if len(bad) > 1 else ""
    raise InputError(f"{bad[0].file.path} {bad[0].reason}{others}")


def _unreadable_notices(results: Sequence[Any]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for result in results:
        if isinstance(result, _Unreadable):
            by_reason.setdefault(result.reason, []).append(result.file.path)
    return [
        f"{_first_of(paths)}: {reason}" if len(paths) > 1 else f"{paths[0]} {reason}"
        for reason, paths in by_reason.items()
    ]


def _without_rows(paths: list[str], what: str) -> list[str]:
    """One line, however many files hold `what` and no rows."""
    return [f"{_first_of(paths)} {'hold' if len(paths) > 1 else 'holds'} {what}"] if paths else []


def _first_of(paths: list[str]) -> str:
    return f"{paths[0]} and {len(paths) - 1:,} more" if len(paths) > 1 else paths[0]


def _csv(spec: Input, files: tuple[InputFile, ...], declared: "dict[str, pa.DataType]") -> _Contents:
    import pyarrow as pa

    looked = _look(files, lambda file: csv_header.read_layout(file, spec.delimiter, spec.encoding))
    layouts = [(f, x) for f, x in zip(files, looked, strict=True) if isinstance(x, csv_header.CsvLayout)]
    first_file, first = layouts[0]
    for file, layout in layouts[1:]:
        unified_schema.check_same_columns(first_file.path, first.names, file.path, layout.names)
    for column in declared:
        check_known(column, first.names, "input.types")
    schema = pa.schema([pa.field(name, declared.get(name, pa.string())) for name in first.names])
    readers = tuple(
        x if isinstance(x, _Unreadable) else csv_file.CsvReader(file, x, schema, spec.encoding)
        for file, x in zip(files, looked, strict=True)
    )
    notices = [*_delimiter_notices(layouts), *first.notices, *_unreadable_notices(looked)]
    notices += _without_rows([file.path for file, x in layouts if x.header_only], "the header only, no rows")
    return _Contents(schema, readers, tuple(notices))


def _delimiter_notices(layouts: "list[tuple[InputFile, csv_header.CsvLayout]]") -> list[str]:
    by_delimiter: dict[bytes, list[str]] = {}
    for file, layout in layouts:
        if layout.found and len(layout.names) > 1:
            by_delimiter.setdefault(layout.dialect.delimiter, []).append(file.path)
    notices = []
    for delimiter, paths in by_delimiter.items():
        more = f" and of {len(paths) - 1} more" if len(paths) > 1 else ""
        notices.append(f"delimiter {csv_header.delimiter_name(delimiter)} found in the header of {paths[0]}{more}")
    single = [file.path for file, layout in layouts if layout.found and len(layout.names) == 1]
    if single:
        notices.append(
            f"no delimiter found in the header of {single[0]}: each line is one value of '{layouts[0][1].names[0]}'"
        )
    return notices


def _jsonl(spec: Input, files: tuple[InputFile, ...], declared: "dict[str, pa.DataType]") -> _Contents:
    objects, unreadable, left = jsonl_columns.sample(files, spec.encoding)
    looked: list[InputFile | _Unreadable] = [
        _Unreadable(file, unreadable[file.path]) if file.path in unreadable else file for file in files
    ]
    _refuse_if_nothing(looked)
    schema = jsonl_columns.infer_types(objects, declared)
    jsonl_columns.refuse_keys_that_are_data(files[0], objects, schema)
    if not objects:
        raise InputError(
            f"{files[0].path}: no line at the start of the input is a JSON object; each line must be one "
            'object such as {"id": 1, "text": "…"}'
        )
    if not schema.names:
        raise InputError(f"{files[0].path}: the objects at the start of the input are empty: there are no columns")
    readers = [
        x
        if isinstance(x, _Unreadable)
        else jsonl_file.JsonlReader(file, schema, declared, spec.encoding, file.path not in left)
        for file, x in zip(files, looked, strict=True)
    ]
    return _Contents(schema, tuple(readers), tuple(_unreadable_notices(looked)))


def _with_encrypted(
    files: tuple[InputFile, ...], looked: "list[parquet_file.ParquetLayout | _Unreadable]"
) -> "Iterator[parquet_file.ParquetLayout | _Unreadable]":
    """`looked`, with those unreadable of which the footer alone can be read."""
    for file, found in zip(files, looked, strict=True):
        if not isinstance(found, _Unreadable) and opened(
            file, partial(parquet_file.has_encrypted_columns, file, found)
        ):
            yield _Unreadable(file, parquet_file.ENCRYPTED)
        else:
            yield found


def _parquet(spec: Input, files: tuple[InputFile, ...], earlier: "Mapping[str, pa.DataType] | None") -> _Contents:
    if spec.types:
        raise JobError("input.types is for CSV and JSONL; Parquet columns keep the types they have")
    looked = _look(files, parquet_file.read_layout)
    _refuse_if_nothing(_with_encrypted(files, looked))
    layouts = [(file, x) for file, x in zip(files, looked, strict=True) if isinstance(x, parquet_file.ParquetLayout)]
    schema = unified_schema.unify(layouts, earlier)
    readers = tuple(
        x if isinstance(x, _Unreadable) else parquet_file.ParquetReader(file, x, schema)
        for file, x in zip(files, looked, strict=True)
    )
    notices = _unreadable_notices(looked)
    notices += _without_rows([file.path for file, layout in layouts if layout.num_rows == 0], "no rows")
    return _Contents(schema, readers, tuple(notices))
