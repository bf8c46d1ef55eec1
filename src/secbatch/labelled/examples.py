"""What labelled files hold, as plain frozen values."""

from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(frozen=True)
class Place:
    """Where an example stands, for error sentences and for tables of mistakes."""

    file: str  # as the job names it
    row: int  # 1-based: the data row of a table, the line of a CoNLL file
    unit: str = "row"  # or "line"

    def __str__(self) -> str:
        return f"{self.file} {self.unit} {self.row}"


@dataclass(frozen=True)
class TextExample:
    """A text with its labels: one for single-label classification, any number for multi-label, none for masked LM."""

    text: str
    labels: tuple[str, ...]
    group: str | None  # what must not stand on both sides of a split: a document, a case, a customer
    place: Place


@dataclass(frozen=True, order=True)
class Span:
    """A labelled stretch of a text; `end` is the character after its last."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class TokenExample:
    """A text with labelled spans, and the words that labels are learned and measured on."""

    text: str
    words: tuple[tuple[int, int], ...]  # character range of each word, in order
    spans: tuple[Span, ...]  # in order, none overlaps another; each begins and ends with a word
    group: str | None
    place: Place


@dataclass(frozen=True)
class Answer:
    text: str
    start: int  # character of the context


@dataclass(frozen=True)
class QuestionExample:
    """A question on a context; no answer means that the context does not tell."""

    question: str
    context: str
    answers: tuple[Answer, ...]
    group: str | None
    place: Place


@dataclass(frozen=True)
class PairExample:
    """A source text and the text that it becomes."""

    source: str
    target: str
    group: str | None
    place: Place


Example = TypeVar("Example", TextExample, TokenExample, QuestionExample, PairExample)


@dataclass(frozen=True)
class DataFile:
    """A file that was read, as a model card names it."""

    path: str
    bytes: int  # as stored
    sha256: str  # of the bytes as stored


@dataclass(frozen=True)
class Malformed:
    """A row, or line, that gives no example."""

    place: Place
    reason: str  # the rest of a sentence that starts with the place


@dataclass(frozen=True)
class Labelled(Generic[Example]):
    """All examples of some files."""

    examples: tuple[Example, ...]
    files: tuple[DataFile, ...]
    malformed: tuple[Malformed, ...]  # left out, as was asked for
    notices: tuple[str, ...]  # what a user should know, one sentence each
