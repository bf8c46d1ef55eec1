"""The text that a task works on: a column, or a template with {columns}."""

from dataclasses import dataclass
from string import Formatter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from secbatch.errors import JobError, columns_there, nearest, shown
from secbatch.models.texts import Texts
from secbatch.row_hash import as_text


@dataclass(frozen=True)
class TextSource:
    """Renders one text a row. `parts` are literal strings and, as tuples of one, columns."""

    parts: tuple[str | tuple[str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, each once, in order."""
        return tuple(dict.fromkeys(part[0] for part in self.parts if isinstance(part, tuple)))

    @classmethod
    def of(cls, text: str, schema: pa.Schema, key: str, place: str = "the input") -> "TextSource":
        """`text` as the job has it under `key`: the name of a column, or a template such as "{title}: {sentence}".

        A name that is a column wins over a template; `{{` and `}}` are literal braces. Raises JobError for a
        column that is not there, naming the nearest; `place` is what has the columns.
        """
        if text in schema.names:
            return cls(_checked(((text,),), schema, key, place))
        if "{" not in text and "}" not in text:
            raise JobError(f"{key}: {_no_column(text, schema, place)}")
        return cls.template(text, schema, key, place=place)

    @classmethod
    def template(
        cls, text: str, schema: pa.Schema, key: str, placeholder: str | None = None, place: str = "the input"
    ) -> "TextSource":
        """`text` as a template, whatever columns there are; `placeholder` in braces stands for no column."""
        try:
            pieces = list(Formatter().parse(text))
        except ValueError as error:
            raise JobError(
                f"{key}: the template {text!r} cannot be read ({error}); write {{{{ and }}}} for literal braces"
            ) from None
        parts: list[str | tuple[str]] = []
        for literal, field, form, conversion in pieces:
            if literal:
                parts.append(literal)
            if field is not None:
                if form or conversion or not field:
                    raise JobError(f"{key}: in the template {text!r}, write {{column}} and nothing else in the braces")
                parts.append((field,))
        _checked(tuple(part for part in parts if part != (placeholder,)), schema, key, place)
        return cls(tuple(parts))

    def render(self, table: pa.Table) -> pa.Array:
        """One text a row (pa.large_string), null where a column that it reads is null."""
        pieces: list[Any] = [
            # Large offsets: the long documents of a shard can hold more than 2 GB together.
            pa.scalar(part, pa.large_string()) if isinstance(part, str) else _text(table.column(part[0]))
            for part in self.parts
        ]
        if not self.columns:
            return pa.repeat(pa.scalar("".join(map(str, pieces)), pa.large_string()), table.num_rows)
        if len(pieces) == 1:
            return pieces[0]  # as it is: it may be of 200 MB
        return pc.binary_join_element_wise(*pieces, pa.scalar("", pa.large_string()))


def _checked(
    parts: tuple[str | tuple[str], ...], schema: pa.Schema, key: str, place: str
) -> tuple[str | tuple[str], ...]:
    for part in parts:
        if isinstance(part, tuple):
            (name,) = part
            if name not in schema.names:
                raise JobError(f"{key}: {_no_column(name, schema, place)}")
            kind = schema.field(name).type
            if holds_no_text(kind):
                raise JobError(f"{key}: column '{name}' is of type {kind}, which is no text")
    return parts


def _no_column(name: str, schema: pa.Schema, place: str) -> str:
    return f"there is no column '{shown(name)}' in {place}{nearest(name, schema.names)}; {columns_there(schema.names)}"


def _text(column: pa.ChunkedArray) -> pa.Array:
    text = as_text(column)
    return text.chunk(0) if text.num_chunks == 1 else text.combine_chunks()  # which copies one chunk, too


def holds_no_text(kind: pa.DataType) -> bool:
    """Whether values of this type have no text that a person would write for them."""
    if pa.types.is_dictionary(kind):
        return holds_no_text(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name != "arrow.uuid" and holds_no_text(kind.storage_type)
    bytes_ = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return pa.types.is_nested(kind) or bytes_


def question_source(text: str, schema: pa.Schema, key: str) -> TextSource:
    """A column, a template, or one question for all rows, which ends with a question mark. Raises JobError."""
    if text.strip().endswith("?") and "{" not in text and text not in schema.names:
        return TextSource((text,))
    return TextSource.of(text, schema, key)


@dataclass(frozen=True)
class DistinctTexts:
    """The texts of a shard that there is something to do for, each once."""

    texts: Texts  # [u]
    rows: Any  # [n] int64 numpy: place in `texts`, -1 where there is nothing to do

    @classmethod
    def of(cls, column: pa.Array, usable: pa.Array, containing: str | None = None) -> "DistinctTexts":
        """Leaves out rows that are null, blank, not `usable`, or without the substring `containing`."""
        wanted = pc.and_(usable, pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False))
        if containing is not None:
            wanted = pc.and_(wanted, pc.fill_null(pc.match_substring(column, containing), False))
        if not pc.all(wanted).as_py():
            column = pc.if_else(wanted, column, pa.scalar(None, column.type))
        encoded = column.dictionary_encode()
        rows = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype("int64")
        return cls(Texts(encoded.dictionary), rows)
