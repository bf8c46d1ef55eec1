"""CoNLL files: a word and its tag a line, an empty line between sentences, -DOCSTART- before a document."""

import re
from collections.abc import Iterator
from pathlib import Path

from secbatch.errors import InputError, counted, quoted
from secbatch.home import expanded
from secbatch.labelled.examples import Labelled, Malformed, Place, Span, TokenExample
from secbatch.labelled.files import LabelledFiles, hashed, judge
from secbatch.labelled.tags import scheme_of, spans_of, split_tag
from secbatch.sources.input_file import InputFile
from secbatch.sources.paths import find_files
from secbatch.sources.streams import UnreadableFileError, Utf8Stream, opened

ENDINGS = (".txt", ".conll", ".bio", ".iob", ".iob2", ".bioes", ".ner")
DOCUMENT = "-DOCSTART-"
_BLOCK = 1 << 20  # bytes
_UNDECODED = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8; U+FFFD itself may stand in a text from the web


def is_conll(files: LabelledFiles) -> bool:
    """Whether the files are CoNLL files, by what the job says or by their ending."""
    if files.format is not None:
        return files.format == "conll"
    name = files.path.lower()
    for compression in (".gz", ".zst", ".bz2"):
        name = name.removesuffix(compression)
    return Path(name).suffix in ENDINGS


def read_conll(files: LabelledFiles) -> Labelled[TokenExample]:
    """The sentences of CoNLL files as texts, words joined by one space.

    The word is the first column, the tag the last; columns are parted by a tab or, where a line has none, by
    spaces. Sentences after a -DOCSTART- line have their document as group; comments before a sentence (# …) are passed
    over. Raises InputError: nothing to read, or malformed lines (their sentences are left out when these are to be
    skipped).
    """
    found, listed = _find(files.path)
    examples: list[TokenExample] = []
    malformed: list[Malformed] = []
    tags: set[str] = set()
    unopened = 0
    first_unopened: Place | None = None
    for file in found:
        for sentence in _sentences(file, files.encoding):
            if sentence.bad:
                malformed += sentence.bad
                continue
            example, without = sentence.example()
            examples.append(example)
            tags.update(sentence.tags)
            unopened += without
            first_unopened = first_unopened or (example.place if without else None)
    notices = [*listed, *judge(malformed, files, "lines")]
    if not examples:
        raise InputError(f"{files.path}: there is no sentence in it; a line is a word, a tab and its tag")
    if _numbered(examples):
        raise InputError(
            f"{files.path}: the first column counts the words of each sentence (1, 2, 3, …), and the words themselves"
            " stand behind it; a line is a word, a tab and its tag: take the column of numbers out"
        )
    if unopened and scheme_of(tags) != "IO":
        continues = f"{counted(unopened, 'tag')} {'continues' if unopened == 1 else 'continue'}"
        notices.append(
            f"{files.path}: {continues} a span that no B- tag opens (the first in the sentence at {first_unopened});"
            " each is read as the start of one, as conlleval reads it"
        )
    return Labelled(tuple(examples), hashed(found), tuple(malformed), tuple(notices))


def _numbered(examples: list[TokenExample]) -> bool:
    """Whether the words of all sentences are 1, 2, 3, …: the number of each, as CoNLL-U has it in front."""
    words = [example.text.split(" ") for example in examples]
    return max(map(len, words)) > 1 and all(some == [str(n) for n in range(1, len(some) + 1)] for some in words)


def _find(path: str) -> tuple[list[InputFile], tuple[str, ...]]:
    """The files that `path` names, and notices; of a folder, or a local glob, those with an ending of CoNLL files."""
    folder = expanded(path, "input path")
    if folder.is_dir():
        paths = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    elif "://" not in path and not folder.is_file() and any(sign in path for sign in "*?["):
        root = Path(folder.anchor)
        paths = [file for file in sorted(root.glob(str(folder.relative_to(root)))) if file.is_file()]
    else:
        found = find_files(path, "conll")
        return list(found.files), found.notices
    chosen = [file for file in paths if is_conll(LabelledFiles(str(file)))]
    if not chosen:
        raise InputError(f"'{path}' has no CoNLL file in it (endings: {', '.join(ENDINGS)}; gz, zst and bz2 besides)")
    left = len(paths) - len(chosen)
    notices = (f"{counted(left, 'other file')} under '{path}' left out",) if left else ()
    return [file for name in chosen for file in find_files(str(name), "conll").files], notices


class _Sentence:
    def __init__(self, file: str, line: int, group: str | None) -> None:
        self.place = Place(file, line, "line")
        self.group = group
        self.words: list[str] = []
        self.tags: list[str] = []
        self.bad: list[Malformed] = []

    def add(self, line: str, number: int) -> None:
        # Not split(): a no-break space, as between the digits of a number, stands within a word.
        columns = line.split("\t") if "\t" in line else [column for column in line.split(" ") if column]
        word, tag = columns[0].strip(), columns[-1].strip()
        reason = None
        if len(columns) < 2:
            reason = f"there is a word and no tag ({quoted(line)})"
        elif not word or not tag:
            reason = f"{'the word' if not word else 'the tag'} is empty ({quoted(line)})"
        elif split_tag(tag) is None:
            reason = f"{quoted(tag)} is no tag; it must be O, or B-, I-, E- or S- and a label, such as B-Malware"
            reason += "" if "-" in tag else f"; a type alone is written I-{tag}"
        elif _UNDECODED.search(line):
            reason = "it is not UTF-8; name its encoding in data.encoding"
        if reason:
            self.bad.append(Malformed(Place(self.place.file, number, "line"), reason))
        else:
            # A space within a word would make two of it when the text is read again.
            self.words.append("\u00a0".join(word.split()))
            self.tags.append(tag)

    def example(self) -> tuple[TokenExample, int]:
        ranges, start = [], 0
        for word in self.words:
            ranges.append((start, start + len(word)))
            start += len(word) + 1
        found, unopened = spans_of(self.tags)
        spans = tuple(Span(ranges[span.first][0], ranges[span.last - 1][1], span.label) for span in found)
        return TokenExample(" ".join(self.words), tuple(ranges), spans, self.group, self.place), unopened


def _sentences(file: InputFile, encoding: str | None) -> Iterator[_Sentence]:
    documents = 0
    group: str | None = None
    sentence: _Sentence | None = None
    for number, line in enumerate(_lines(file, encoding), 1):
        if line.split(maxsplit=1)[:1] == [DOCUMENT]:
            documents += 1
            group = f"{file.path} document {documents}"
            line = ""
        if not line.strip():
            if sentence is not None:
                yield sentence
            sentence = None
            continue
        if sentence is None and _is_comment(line):
            continue
        sentence = sentence or _Sentence(file.path, number, group)
        sentence.add(line, number)
    if sentence is not None:
        yield sentence


def _is_comment(line: str) -> bool:
    """Whether a line before a sentence is about it, as CoNLL-U has it (# sent_id = 1), and no word # with its tag."""
    columns = line.split()
    return columns[0] == "#" and len(columns) > 1 and split_tag(columns[-1]) is None


def _lines(file: InputFile, encoding: str | None) -> list[str]:
    def whole() -> str:
        stream = Utf8Stream(file, encoding)
        try:
            blocks = []
            while block := stream.read(_BLOCK):
                blocks.append(block)
            if stream.failure:
                raise InputError(f"{file.path} {stream.failure}; fetch the file again")
        finally:
            stream.close()
        return b"".join(blocks).decode("utf-8", "surrogateescape")

    try:
        text: str = opened(file, whole)
    except UnreadableFileError as error:
        raise InputError(f"{file.path} {error}") from None
    # Not splitlines: characters such as U+2028 and U+0085 stand within words.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
