"""Labelled CSV, Parquet and JSONL files to examples."""

import hashlib
import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.errors import InputError
from secbatch.labelled.examples import Answer, Span
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import (
    is_multi_label,
    read_classification,
    read_pairs,
    read_questions,
    read_texts,
    read_tokens,
)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> LabelledFiles:
    Path(name).write_text(text, encoding="utf-8")
    return LabelledFiles(name)


def test_classification_from_csv_keeps_places_groups_and_hashes() -> None:
    files = write("a.csv", 'text,label,doc\n"two\nlines",007,x\nb, T1 ,y\n')
    read = read_classification(files, "text", "label", group="doc")
    assert [(e.text, e.labels, e.group, str(e.place)) for e in read.examples] == [
        ("two\nlines", ("007",), "x", "a.csv row 1"),
        ("b", ("T1",), "y", "a.csv row 2"),
    ]
    assert read.files[0].sha256 == hashlib.sha256(Path("a.csv").read_bytes()).hexdigest()
    assert read.files[0].bytes == Path("a.csv").stat().st_size


def test_text_can_be_a_template() -> None:
    read = read_classification(write("a.csv", "title,body,label\nA,b,x\n"), "{title}: {body}", "label")
    assert read.examples[0].text == "A: b"


def test_labels_of_numbers_become_their_text() -> None:
    Path("a.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    read = read_classification(LabelledFiles("a.jsonl"), "text", "label")
    assert [example.labels for example in read.examples] == [("1",), ("0",)]


def test_multi_label_by_delimiter_and_by_list() -> None:
    files = write("a.csv", "text,label\na,x; y;x\nb,\n")
    assert is_multi_label(files, "label", ";") and not is_multi_label(files, "label", None)
    read = read_classification(files, "text", "label", ";")
    assert [example.labels for example in read.examples] == [("x", "y"), ()]
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [["x", "y"], [], None]}), "a.parquet")
    files = LabelledFiles("a.parquet", malformed="skip")
    assert is_multi_label(files, "label", None)
    read = read_classification(files, "text", "label")
    assert [example.labels for example in read.examples] == [("x", "y"), ()]
    assert [str(one.place) for one in read.malformed] == ["a.parquet row 3"]


def test_lists_of_jsonl_files_are_lists() -> None:
    Path("a.jsonl").write_text('{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n')
    files = LabelledFiles("a.jsonl")
    assert is_multi_label(files, "label", None)
    assert [example.labels for example in read_classification(files, "text", "label").examples] == [("x", "y"), ()]
    files = write("a.csv", "text,label\na,[x]\nb,x\n")
    assert not is_multi_label(files, "label", None)
    assert [example.labels for example in read_classification(files, "text", "label").examples] == [("[x]",), ("x",)]
    answers = {"text": ["APT1"], "answer_start": [3]}
    Path("q.jsonl").write_text(json.dumps({"question": "Who?", "context": "By APT1", "answer": answers}) + "\n")
    (example,) = read_questions(LabelledFiles("q.jsonl")).examples
    assert example.answers == (Answer("APT1", 3),)


def test_rows_without_label_or_text_stop_or_are_counted() -> None:
    files = write("a.csv", "text,label\na,x\nb,\n ,y\nc,z\n")
    with pytest.raises(InputError, match=r"a\.csv row 2: the label \(label\) is missing; 2 malformed rows in all, the"):
        read_classification(files, "text", "label")
    read = read_classification(LabelledFiles("a.csv", malformed="skip"), "text", "label")
    assert [example.text for example in read.examples] == ["a", "c"]
    assert len(read.malformed) == 2 and "2 malformed rows left out" in read.notices[-1]
    one = LabelledFiles(write("b.csv", "text,label\na,x\nb,\n").path, malformed="skip")
    assert read_classification(one, "text", "label").notices[-1].startswith("1 malformed row left out (b.csv row 2:")


def test_rows_that_do_not_parse_stop_too() -> None:
    files = write("a.csv", "text,label\na,x\nb,y,extra\n")
    with pytest.raises(InputError, match=r"a\.csv line 3: the line cannot be read"):
        read_classification(files, "text", "label")


def test_unknown_column_names_the_nearest() -> None:
    files = write("a.csv", "text,labels\na,x\n")
    with pytest.raises(InputError, match=r"data\.label: a\.csv has no column 'label' \(did you mean 'labels'\?\)"):
        read_classification(files, "text", "label")


def test_lists_of_labels_in_some_rows_only_are_refused() -> None:
    files = write("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": ["x", "y"]}\n')
    with pytest.raises(InputError, match=r"label .label. is a list in a.jsonl row 2 and none in a.jsonl row 1; write"):
        read_classification(files, "text", "label")


def test_a_missing_group_is_malformed() -> None:
    with pytest.raises(InputError, match=r"row 2: the group \(doc\) is missing"):
        read_classification(write("a.csv", "text,label,doc\na,x,1\nb,x,\n"), "text", "label", group="doc")
    without = write("b.csv", "text,doc\na,1\nb,\n,\n")  # a row without a text is passed over
    with pytest.raises(InputError, match=r"row 2: the group \(doc\) is missing; mend the file"):
        read_texts(without, "text", group="doc")


def test_sentences_of_the_sources_name_the_keys_of_a_training_job() -> None:
    with pytest.raises(InputError, match=r"cannot tell the format of 'a\.log' .*`data\.format: csv`"):
        read_texts(write("a.log", "text\na\n"), "text")


def test_a_late_row_of_another_type_or_with_another_key_names_no_key_that_there_is_not() -> None:
    rows = [{"text": "a", "label": 1, "note": "x" * 1000}] * 1100  # types and keys are told by the first MiB
    late = [{"text": "b", "label": "x"}, {"text": "c", "label": 1, "more": 1}]
    files = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows + late))
    with pytest.raises(InputError, match=r"'x' is not of type int64; mend the value, or write the whole column as"):
        read_classification(files, "text", "label")
    files = write("b.jsonl", "".join(json.dumps(row) + "\n" for row in rows + late[1:]))
    with pytest.raises(InputError, match=r"key 'more' is not among .* take it out, or give it to the first row, too; "):
        read_classification(files, "text", "label")
    for remedy in ([{**rows[0], "label": "1"}, *rows[1:-1], late[0]], [{**rows[0], "more": None}, *rows[1:], late[1]]):
        files = write("c.jsonl", "".join(json.dumps({**row, "label": str(row["label"])}) + "\n" for row in remedy))
        assert len(read_classification(files, "text", "label").examples) == len(remedy)


def test_files_without_rows() -> None:
    with pytest.raises(InputError, match="holds no rows"):
        read_classification(write("a.csv", "text,label\n"), "text", "label")


def test_texts_pass_over_empty_rows() -> None:
    read = read_texts(write("a.csv", "text,n\na,1\n,2\nb,3\n"), "text")
    assert [(e.text, e.place.row) for e in read.examples] == [("a", 1), ("b", 3)]


@pytest.mark.parametrize("form", ["objects", "lists", "parquet"])
def test_spans_of_a_text(form: str) -> None:
    text = "🙂 Emotet drops evil.dll"
    spans = [{"start": 2, "end": 8, "label": "Malware"}, {"start": 15, "end": 23, "label": "Indicator"}]
    if form == "parquet":
        pq.write_table(pa.table({"text": [text], "spans": [spans]}), "a.parquet")
        files = LabelledFiles("a.parquet")
    else:
        value: object = spans if form == "objects" else json.dumps([list(span.values()) for span in spans])
        files = write("a.jsonl", json.dumps({"text": text, "spans": value}) + "\n")
    (example,) = read_tokens(files).examples
    assert example.spans == (Span(2, 8, "Malware"), Span(15, 23, "Indicator"))
    words = [text[start:end] for start, end in example.words]
    assert words == ["🙂", "Emotet", "drops", "evil", ".", "dll"]


def test_words_end_where_spans_do() -> None:
    files = write("a.jsonl", '{"text": "CVE2021x", "spans": [{"start": 0, "end": 3, "label": "V"}]}\n')
    (example,) = read_tokens(files).examples
    assert example.words == ((0, 3), (3, 8))


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ("[[0, 3, 'x']]", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('[[0, 9, \\"x\\"]]', "not within the text's 5 characters"),
        ('[[0, 3, \\"x\\"], [2, 5, \\"y\\"]]', "overlap: 0–3 and 2–5"),
        ("[[0, 3]]", "not start, end and label"),
        ('[[\\"a\\", 3, \\"x\\"]]', "is no whole number"),
        ('[[0, 1.5, \\"x\\"]]', "is no whole number"),
        ('[[0, 3, \\" \\"]]', "without a label"),
        ('[[1, 2, \\"x\\"]]', "nothing but blanks"),
        ("{}", "are no list"),
    ],
)
def test_wrong_spans(spans: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"row 1: the spans .spans. .*{reason}"):
        read_tokens(write("a.jsonl", f'{{"text": "a b c", "spans": "{spans}"}}\n'))


def test_missing_spans_are_not_none() -> None:
    with pytest.raises(InputError, match=r"row 1: the spans .spans. are missing; an empty list says"):
        read_tokens(write("a.jsonl", '{"text": "a b c", "spans": null}\n'))


def test_questions_with_and_without_answers() -> None:
    files = write("q.csv", "question,context,answer,answer_start\nWho?,APT1 did it,APT1,0\nWhy?,APT1 did it,,\n")
    first, second = read_questions(files).examples
    assert first.answers == (Answer("APT1", 0),) and second.answers == ()
    text = "question,context,answer,answer_start\nWho?,By APT1,APT1,3.0\nWhy?,APT1 did it,,\n"  # as pandas writes it
    first, second = read_questions(write("pandas.csv", text)).examples
    assert first.answers == (Answer("APT1", 3),) and second.answers == ()
    pq.write_table(
        pa.table(
            {
                "question": ["Who?"],
                "context": ["By APT1"],
                "answers": [{"text": ["APT1", "By APT1"], "answer_start": [3, 0]}],
            }
        ),
        "q.parquet",
    )
    (example,) = read_questions(LabelledFiles("q.parquet"), answer="answers").examples
    assert example.answers == (Answer("APT1", 3), Answer("By APT1", 0))
    none = '{"question": "Why?", "context": "By APT1", "answer": {"text": ["", null], "answer_start": [4, 0]}}'
    (example,) = read_questions(write("none.jsonl", none)).examples
    assert example.answers == ()  # as in a column of strings, an empty answer says that there is none


def test_a_named_column_of_places_that_is_not_there_is_told() -> None:
    files = write("a.csv", "question,context,answer,start\nq,a a,a,2\n")
    with pytest.raises(InputError, match=r"answer_start: a\.csv has no column 'strat' \(did you mean 'start'\?\)"):
        read_questions(files, answer_start="strat")
    assert read_questions(files, answer_start="start").examples[0].answers == (Answer("a", 2),)


@pytest.mark.parametrize("answer", ['{"text": ["A", "B"], "answer_start": [0]}', '{"text": "A", "answer_start": 0}'])
def test_answers_and_their_places_are_lists_of_one_length(answer: str) -> None:
    with pytest.raises(InputError, match=r"row 1: the answers are not .* of one length"):
        read_questions(write("a.jsonl", f'{{"question": "Who?", "context": "A B", "answer": {answer}}}\n'))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Who?,APT1 did it,APT2,0", "does not stand at character 0"),
        ("Who?,APT1 did it,APT2,", "does not stand in the context"),
        ("Who?,a a,a,", "stands 2 times in the context"),
        ("Who?,a a,a,x", "is no whole number"),
        ("Who?,a a,a,2.5", "is no whole number"),
        (",a a,a,0", "the question is empty"),
    ],
)
def test_wrong_answers(row: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"row 1: .*{reason}"):
        read_questions(write("q.csv", f"question,context,answer,answer_start\n{row}\n"))


def test_pairs() -> None:
    files = write("p.csv", "a,b\nlong text,short\nlong,\n")
    with pytest.raises(InputError, match=r"row 2: the target is empty"):
        read_pairs(files, "a", "b")
    read = read_pairs(LabelledFiles("p.csv", malformed="skip"), "Sum up: {a}", "b")
    assert [(e.source, e.target) for e in read.examples] == [("Sum up: long text", "short")]


def test_rows_that_are_all_left_out_are_no_data() -> None:
    write("p.csv", "a,b\n" + "long,\n" * 3)
    with pytest.raises(InputError, match=r"p\.csv: no row gives an example"):
        read_pairs(LabelledFiles("p.csv", malformed="skip"), "a", "b")


def test_a_line_in_another_encoding_names_the_key_of_this_job(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\ncaf\xe9,x\nb,y\n")
    with pytest.raises(InputError, match=r"a\.csv line 2: the line cannot be read .*`data\.encoding: cp1252`"):
        read_classification(LabelledFiles(str(tmp_path / "a.csv")), "text", "label")


def test_labels_and_groups_of_types_that_are_not_plain() -> None:
    groups = [uuid.UUID(int=2**128 - 1), uuid.UUID(int=2**127)]
    stored = pa.array([one.bytes for one in groups], pa.binary(16))
    table = {
        "text": ["a", "b"],
        "label": pa.array(["T1", "T2"]).dictionary_encode(),
        "case": pa.ExtensionArray.from_storage(pa.uuid(), stored),
        "raw": stored,
    }
    pq.write_table(pa.table(table), "a.parquet")
    read = read_classification(LabelledFiles("a.parquet"), "text", "label", group="case")
    assert [(e.labels, e.group) for e in read.examples] == [(("T1",), str(groups[0])), (("T2",), str(groups[1]))]
    with pytest.raises(InputError, match=r"column 'raw' \(data.label\) is of type .*, which is no text"):
        read_classification(LabelledFiles("a.parquet"), "text", "raw")


LISTS = {
    "truth": (pa.array([[True], [False, None], []]), [("true",), ("false",), ()]),
    "number": (pa.array([[1.0, 2.5], [float("nan")], [10.0]]), [("1", "2.5"), (), ("10",)]),
    "word": (pa.array([["a"], ["a", " b"], ["b"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))), None),
    "fixed": (pa.array([["a"], ["a"], ["b"]], pa.list_(pa.string(), 1)), [("a",), ("a",), ("b",)]),
}


@pytest.mark.parametrize("name", LISTS)
def test_labels_in_lists_are_written_as_labels_by_themselves(name: str) -> None:
    column, labels = LISTS[name]
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": column}), "a.parquet")
    read = read_classification(LabelledFiles("a.parquet"), "text", "label")
    assert [example.labels for example in read.examples] == (labels or [("a",), ("a", "b"), ("b",)])


def test_lists_of_jsonl_have_the_labels_that_single_values_have() -> None:
    lines = [{"text": "a", "label": [True, 2.0, 2.5, "x"]}, {"text": "b", "label": [float("nan"), None]}]
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_classification(LabelledFiles("a.jsonl"), "text", "label")
    assert [example.labels for example in read.examples] == [("true", "2", "2.5", "x"), ()]


@pytest.mark.parametrize("value", [[["a"]], [{"name": "a"}], [b"a"]])
def test_lists_of_what_is_no_text_are_no_labels(value: list[object]) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "label": [value, value]}), "a.parquet")
    with pytest.raises(InputError, match=r"column 'label' \(data.label\) is of type list<.*>, which is no text"):
        read_classification(LabelledFiles("a.parquet"), "text", "label")


def test_a_number_that_is_none_is_a_missing_label_or_group() -> None:
    numbers = pa.array([1.0, float("nan"), 2.0])
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": numbers, "x": ["u", "v", "w"]}), "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet row 2: the label \(label\) is missing"):
        read_classification(LabelledFiles("a.parquet"), "text", "label")
    with pytest.raises(InputError, match=r"a\.parquet row 2: the group \(label\) is missing"):
        read_classification(LabelledFiles("a.parquet"), "text", "x", group="label")
