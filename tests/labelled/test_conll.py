"""CoNLL files: tags to spans, documents, malformed lines."""

import gzip
from pathlib import Path

import pytest

from secbatch.errors import InputError
from secbatch.labelled.examples import Span
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import read_tokens
from secbatch.labelled.tags import TagSpan, scheme_of, spans_of


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> LabelledFiles:
    Path(name).write_bytes(text.encode())
    return LabelledFiles(name)


@pytest.mark.parametrize(
    ("tags", "spans", "unopened"),
    [
        ("B-X I-X O B-Y", [(0, 2, "X"), (3, 4, "Y")], 0),
        ("B-X B-X I-X", [(0, 1, "X"), (1, 3, "X")], 0),
        ("O I-X I-X I-Y", [(1, 3, "X"), (3, 4, "Y")], 2),
        ("B-X I-X E-X S-X S-Y", [(0, 3, "X"), (3, 4, "X"), (4, 5, "Y")], 0),
        ("B-X L-X U-X", [(0, 2, "X"), (2, 3, "X")], 0),
        ("B-X E-X E-X", [(0, 2, "X"), (2, 3, "X")], 1),
        ("B-X I-Y", [(0, 1, "X"), (1, 2, "Y")], 1),
    ],
)
def test_tags_to_spans(tags: str, spans: list[tuple[int, int, str]], unopened: int) -> None:
    assert spans_of(tags.split()) == ([TagSpan(*span) for span in spans], unopened)


def test_schemes() -> None:
    assert [scheme_of(set(tags.split())) for tags in ("O I-X", "O B-X I-X", "B-X E-X")] == ["IO", "BIO", "BIOES"]


def test_sentences_documents_and_offsets() -> None:
    files = write("a.txt", "\ufeff-DOCSTART- -X- O O\n\nSuper\tB-M\r\nRun\tI-M\r\n\u2028#\tO\n\n-DOCSTART-\nx NN O\n")
    first, second = read_tokens(files).examples
    assert first.text.startswith("Super Run ") and first.spans == (Span(0, 9, "M"),)
    assert [first.text[start:end] for start, end in first.words][:2] == ["Super", "Run"]
    assert (first.group, second.group) == ("a.txt document 1", "a.txt document 2")
    assert (str(first.place), str(second.place)) == ("a.txt line 3", "a.txt line 8")


def test_malformed_lines_are_counted_with_their_numbers() -> None:
    text = "a\tO\nb\n\nc\tB-\nd\tO\n\ne\tX-Y\n\n\tO\n\nf\tO\n"
    with pytest.raises(InputError) as caught:
        read_tokens(write("a.txt", text))
    assert str(caught.value).startswith("a.txt line 2: there is a word and no tag ('b'); 4 malformed lines in all, the")
    assert "next are 4, 7, 9" in str(caught.value)
    read = read_tokens(LabelledFiles("a.txt", malformed="skip"))
    assert [example.text for example in read.examples] == ["f"]
    assert [one.place.row for one in read.malformed] == [2, 4, 7, 9]


def test_tags_that_continue_nothing_are_told() -> None:
    read = read_tokens(write("a.txt", "a\tO\nb\tI-X\n\nc\tB-X\n"))
    assert [len(example.spans) for example in read.examples] == [1, 1]
    assert "1 tag continues a span that no B- tag opens" in read.notices[0]
    assert read_tokens(write("io.txt", "a\tO\nb\tI-X\n")).notices == ()


def test_compressed_files_folders_and_globs() -> None:
    Path("parts").mkdir()
    Path("parts/b.txt.gz").write_bytes(gzip.compress(b"b\tO\n"))
    Path("parts/a.conll").write_text("a\tO\n")
    Path("parts/notes.md").write_text("no")
    for path in ("parts", "parts/*"):
        read = read_tokens(LabelledFiles(path, format="conll"))
        assert [example.text for example in read.examples] == ["a", "b"]
        assert [file.path for file in read.files] == ["parts/a.conll", "parts/b.txt.gz"]
        assert "1 other file under" in read.notices[0]
    for path in ("notes", "notes/*"):
        Path("notes").mkdir(exist_ok=True)
        Path("notes/notes.md").write_text("no")
        with pytest.raises(InputError, match=r"'notes.*' has no CoNLL file in it \(endings: "):
            read_tokens(LabelledFiles(path, format="conll"))


def test_nothing_in_it_and_a_group_column() -> None:
    with pytest.raises(InputError, match="there is no sentence in it"):
        read_tokens(write("a.txt", "\n\n"))
    with pytest.raises(InputError, match=r"take out data\.group"):
        read_tokens(write("a.txt", "a\tO\n"), group="doc")
    with pytest.raises(InputError, match="does not exist"):
        read_tokens(LabelledFiles("nothing.txt"))


def test_comments_before_a_sentence_are_none_of_its_words() -> None:
    files = write("a.conll", "# sent_id = 1\n# text = x\nx\tB-A\n#\tO\n\n# id 7 domain=y\n#\tO\ny\tM-A\n")
    first, second = read_tokens(files).examples
    assert (first.text, second.text) == ("x #", "# y")
    assert str(first.place) == "a.conll line 3" and second.spans == (Span(2, 3, "A"),)


def test_types_alone_are_no_tags_and_unknown_endings_may_be_conll() -> None:
    with pytest.raises(InputError, match="a type alone is written I-Malware"):
        read_tokens(write("a.conll", "Emotet\tMalware\n"))
    with pytest.raises(InputError, match=r"has no column 'text'.* data\.format: conll"):
        read_tokens(write("a.tsv", "Emotet\tB-Malware\nran\tO\n"))
    with pytest.raises(InputError, match="`parquet`, `jsonl`, or for ner `conll`"):
        read_tokens(write("a.dat", "Emotet\tB-Malware\n"))


def test_a_no_break_space_does_not_end_a_word() -> None:
    (example,) = read_tokens(write("a.txt", "10\u00a0000 O\nBlack\u00a0Basta NNP B-M\n")).examples
    assert [example.text[start:end] for start, end in example.words] == ["10\u00a0000", "Black\u00a0Basta"]
    assert example.spans == (Span(7, 18, "M"),)


def test_numbers_of_words_are_not_taken_for_words() -> None:
    numbered = "# id 1\n1\tEmotet\t_\tB-M\n2\truns\t_\tO\n\n1\tYes\t_\tO\n"
    with pytest.raises(InputError, match=r"a\.txt: the first column counts the words .*: take the column of numbers"):
        read_tokens(write("a.txt", numbered))
    assert len(read_tokens(write("b.txt", numbered + "2\tB-M\n\n2\tO\n1\tO\n")).examples) == 3


def test_bytes_that_are_no_utf8_are_malformed_and_the_replacement_character_is_not() -> None:
    (example,) = read_tokens(write("a.txt", "Emot\ufffdt\tB-M\n")).examples
    assert example.text == "Emot\ufffdt"
    Path("b.txt").write_bytes(b"Emotet\tB-M\n\n\xe9t\xe9\tO\n")
    with pytest.raises(InputError, match=r"b\.txt line 3: it is not UTF-8; name its encoding in data\.encoding"):
        read_tokens(LabelledFiles("b.txt"))
