"""Texts out of columns and templates."""

import uuid

import pyarrow as pa
import pytest

from secbatch.errors import JobError
from secbatch.tasks.text import DistinctTexts, TextSource

TABLE = pa.table(
    {
        "sentence": ["one", None, "three"],
        "cvss": [9.8, 1.0, None],
        "{odd}": ["x", "y", "z"],
        "kind": pa.array(["a", "b", None]).dictionary_encode(),
        "tags": [["a"], [], None],
        "raw": pa.array([b"a", b"b", None]),
    }
)


def render(text: str) -> list[str | None]:
    source = TextSource.of(text, TABLE.schema, "tasks.mask.text")
    array = source.render(TABLE)
    assert array.type == pa.large_string() and len(array) == 3
    return array.to_pylist()  # type: ignore[no-any-return]


def test_a_column() -> None:
    assert render("sentence") == ["one", None, "three"]
    assert render("cvss") == ["9.8", "1", None]
    assert render("kind") == ["a", "b", None]


def test_a_column_is_not_copied() -> None:
    table = pa.table({"t": ["x" * 1000, "y"]})
    rendered = TextSource.of("t", table.schema, "tasks.a.text").render(table)
    assert rendered.type == pa.large_string() and rendered.to_pylist() == ["x" * 1000, "y"]
    assert rendered.buffers()[2].address == table.column("t").chunk(0).buffers()[2].address


def test_a_template_is_null_where_a_column_is() -> None:
    assert render("{sentence} It was <mask>.") == ["one It was <mask>.", None, "three It was <mask>."]
    assert render("{kind}/{cvss}/{kind}") == ["a/9.8/a", "b/1/b", None]
    source = TextSource.of("{kind}/{cvss}/{kind}", TABLE.schema, "tasks.mask.text")
    assert source.columns == ("kind", "cvss")


def test_braces() -> None:
    assert render("{{{sentence}}}") == ["{one}", None, "{three}"]
    assert render("{odd}") == ["x", "y", "z"]  # a column of that name wins
    assert render("}} <mask> {{") == ["} <mask> {"] * 3


def test_the_values_of_a_row_are_no_template() -> None:
    table = pa.table({"a": ["{b} {0}"], "b": ["secret"]})
    assert TextSource.of("{a}!", table.schema, "t").render(table).to_pylist() == ["{b} {0}!"]


def test_chunked_and_empty_columns() -> None:
    chunked = pa.table({"a": pa.chunked_array([["x"], [], ["y", None]])})
    source = TextSource.of("-{a}-", chunked.schema, "t")
    assert source.render(chunked).to_pylist() == ["-x-", "-y-", None]
    assert source.render(chunked.slice(0, 0)).to_pylist() == []
    nulls = pa.table({"a": pa.nulls(2)})
    assert TextSource.of("a", nulls.schema, "t").render(nulls).to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sentense", r"tasks.mask.text: there is no column 'sentense' in the input \(did you mean 'sentence'\?\)"),
        ("{sentense} <mask>", r"no column 'sentense' in the input \(did you mean 'sentence'\?\)"),
        ("{sentence", "cannot be read"),
        ("{sentence!r}", "nothing else in the braces"),
        ("{sentence:>10}", "nothing else in the braces"),
        ("{}", "nothing else in the braces"),
        ("{sentence.upper}", "no column 'sentence.upper'"),
        ("tags", "column 'tags' is of type list.* which is no text"),
        ("{raw}", "column 'raw' is of type binary"),
    ],
)
def test_what_cannot_be_rendered(text: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        TextSource.of(text, TABLE.schema, "tasks.mask.text")


def test_distinct_texts() -> None:
    column = pa.array(["b <mask>", None, "", " \t", "a", "b <mask>", "c <mask>"], pa.large_string())
    usable = pa.array([True] * 6 + [False])
    texts = DistinctTexts.of(column, usable, containing="<mask>")
    assert (list(texts.texts), texts.rows.tolist()) == (["b <mask>"], [0, -1, -1, -1, -1, 0, -1])
    texts = DistinctTexts.of(column, usable)
    assert (list(texts.texts), texts.rows.tolist()) == (["b <mask>", "a"], [0, -1, -1, -1, 1, 0, -1])
    assert DistinctTexts.of(column.slice(0, 0), usable.slice(0, 0)).rows.tolist() == []


def test_a_uuid_is_read_as_it_is_written_everywhere() -> None:
    one = uuid.UUID(int=2**128 - 1)
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes, None], pa.binary(16)))
    table = pa.table({"u": column})
    assert TextSource.of("id {u}", table.schema, "tasks.mask.text").render(table).to_pylist() == [f"id {one}", None]


@pytest.mark.parametrize(
    "kind", [pa.binary(16), pa.dictionary(pa.int32(), pa.binary()), pa.fixed_shape_tensor(pa.float32(), (2,))]
)
def test_what_is_no_text_is_refused_whatever_it_is_wrapped_in(kind: pa.DataType) -> None:
    with pytest.raises(JobError, match=r"column 'x' is of type .*, which is no text"):
        TextSource.of("x", pa.schema([("x", kind)]), "tasks.mask.text")
