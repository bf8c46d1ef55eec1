"""Rows of labelled CSV, Parquet and JSONL files, through the product's own sources."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import InputError, JobError, columns_there, nearest, shown, with_keys_of
from secbatch.job import Input
from secbatch.labelled.examples import DataFile, Malformed, Place
from secbatch.labelled.files import LabelledFiles, hashed
from secbatch.row_hash import as_text
from secbatch.sources.open import Source, open_source
from secbatch.tasks.text import TextSource, holds_no_text

SHARD_ROWS = 100_000


@dataclass
class LabelledTable:
    """All rows of some files that parse, with their places."""

    table: pa.Table
    places: list[Place]  # of each row
    malformed: list[Malformed]  # rows that do not parse, and what readers of columns add
    files: tuple[DataFile, ...]
    notices: tuple[str, ...]
    path: str

    def column(self, name: str, key: str) -> list[Any]:
        """A column as Python values. Raises InputError where the files lack it; `key` is the job's."""
        self.check(name, key)
        return list(self.table.column(name).to_pylist())

    def strings(self, name: str, key: str) -> list[str | None]:
        """A column as stripped strings; None where a value is null, blank, or no number among numbers."""
        self.check(name, key)
        return _strings(self._with_text(name, key, self.table.column(name)))

    def lists(self, name: str, key: str) -> list[list[str | None] | None]:
        """A column of lists, their values as `strings` has them."""
        self.check(name, key)
        column = self.table.column(name)
        values = iter(_strings(self._with_text(name, key, pc.list_flatten(column))))
        counts = pc.list_value_length(column).to_pylist()
        return [None if count is None else list(islice(values, count)) for count in counts]

    def _with_text(self, name: str, key: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """The values themselves. Raises InputError where they are such as nobody would write down as a text."""
        if holds_no_text(values.type):
            kind = self.table.schema.field(name).type
            raise InputError(f"{self.path}: column '{name}' ({key}) is of type {kind}, which is no text")
        return values

    def texts(self, text: str, key: str) -> list[str | None]:
        """A column or a template; None where it is null or blank."""
        rendered = TextSource.of(text, self.table.schema, key).render(self.table).to_pylist()
        return [value if value is not None and value.strip() else None for value in rendered]

    def type_of(self, name: str, key: str) -> pa.DataType:
        self.check(name, key)
        return self.table.schema.field(name).type

    def check(self, name: str, key: str, hint: str = "") -> None:
        check_column(name, self.table.schema, self.path, key, hint)

    def reject(self, row: int, reason: str) -> None:
        self.malformed.append(Malformed(self.places[row], reason))


def _strings(values: pa.ChunkedArray) -> list[str | None]:
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    nothing = ("", "nan") if pa.types.is_floating(kind) else ("",)  # NaN is what pandas writes for a missing number
    texts = pc.utf8_trim_whitespace(as_text(values)).to_pylist()
    return [None if text in nothing else text for text in texts]


def check_column(name: str, schema: pa.Schema, path: str, key: str, hint: str = "") -> None:
    """Raises InputError where the files at `path` lack the column that the job's `key` names.

    `hint` ends the sentence.
    """
    if name not in schema.names:
        known = schema.names
        raise InputError(
            f"{key}: {path} has no column '{shown(name)}'{nearest(name, known)}; {columns_there(known)}{hint}"
        )


def read_table(files: LabelledFiles) -> LabelledTable:
    """Raises InputError and JobError as `open_source` does, and for files without rows."""
    source = _opened(files)
    tables, places, malformed = [], [], []
    for shard in source.shards():
        wrong = sorted(shard.errors)
        for reject in shard.rejects:
            place = Place(reject.source, reject.line or 0, "line")
            malformed.append(Malformed(place, f"the line cannot be read ({with_keys_of('data', reject.reason)})"))
        names = shard.source.to_pylist()
        numbers = shard.row.to_pylist()
        here = [Place(name, number) for name, number in zip(names, numbers, strict=True)]
        malformed += [Malformed(here[row], with_keys_of("data", shard.errors[row])) for row in wrong]
        fine = [row for row in range(len(here)) if row not in shard.errors]
        tables.append(shard.table.take(fine) if wrong else shard.table)
        places += [here[row] for row in fine]
    table = pa.concat_tables(tables) if tables else source.schema.empty_table()
    if not places and not malformed:
        raise InputError(f"{files.path} holds no rows; write labelled rows into it, or name another file")
    return LabelledTable(table, places, malformed, hashed(source.files), tuple(source.notices), files.path)


def _opened(files: LabelledFiles) -> Source:
    if files.format == "conll":
        raise InputError(f"{files.path}: CoNLL files hold words and tags; they serve objective: ner alone")
    spec = Input(path=files.path, format=files.format, delimiter=files.delimiter, encoding=files.encoding)
    try:
        return open_source(spec, lambda _: SHARD_ROWS)
    except (InputError, JobError) as error:  # in its sentences the keys are those of a job's input
        told = with_keys_of("data", str(error)).replace(
            "`parquet` or `jsonl`", "`parquet`, `jsonl`, or for ner `conll`"
        )
        raise type(error)(told) from None
