"""The training corpus: named files in a folder, read into cleaned sentences with a fixed held-out part.

Every file is optional; the caller is told which ones were found. Held-out documents are chosen by a hash of
their identity, so that the split is the same on every machine and never depends on row order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secbatch.training.cleaning import clean_description, clean_report, split_sentences

HELD_OUT_SALT = "secbatch-mlm-1"


@dataclass(frozen=True)
class Document:
    """One description, advisory note or report: its sentences in order, and whether training may see it."""

    source: str
    key: str
    sentences: tuple[str, ...]
    held_out: bool


@dataclass(frozen=True)
class CorpusFile:
    """A file the corpus may hold: where it is, what it is called in the card, and how it is read.

    ``weight`` is the share of the training tokens drawn from this file when all files are present.
    """

    source: str
    name: str
    weight: float
    licence: str
    read: Callable[[Path], Iterator[Document]]


def held_out(key: str, percent: float) -> bool:
    """Whether the document of this identity belongs to the held-out part (``percent`` of all, by hash)."""
    digest = hashlib.sha256(f"{HELD_OUT_SALT}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < percent / 100


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_attack(path: Path) -> Iterator[Document]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["stix_id", "text"])
    for stix_id, text in zip(table["stix_id"].to_pylist(), table["text"].to_pylist(), strict=True):
        sentences = tuple(split_sentences(clean_description(text or "")))
        yield Document("attack", stix_id, sentences, held_out(stix_id, 2.0))


def _read_reports(path: Path) -> Iterator[Document]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["doc", "text"])
    for doc, text in zip(table["doc"].to_pylist(), table["text"].to_pylist(), strict=True):
        sentences = tuple(split_sentences(clean_report(text or "")))
        yield Document("reports", doc, sentences, held_out(doc, 6.0))


_IDENTIFIER_OR_NUMBER = re.compile(r"\S*\d\S*")
MAXIMUM_BOILERPLATE_REPEATS = 2


def _read_csaf(path: Path) -> Iterator[Document]:
    """Advisory notes. Most are boilerplate with another product's number: a sentence whose text without
    numbers was seen twice already is dropped."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["advisory", "text"])
    seen: dict[str, int] = {}
    for advisory, text in zip(table["advisory"].to_pylist(), table["text"].to_pylist(), strict=True):
        kept = []
        for sentence in split_sentences(clean_report(text or "")):
            template = _IDENTIFIER_OR_NUMBER.sub("0", sentence).lower()
            seen[template] = seen.get(template, 0) + 1
            if seen[template] <= MAXIMUM_BOILERPLATE_REPEATS:
                kept.append(sentence)
        if kept:
            yield Document("csaf", advisory, tuple(kept), False)


def _read_csv_columns(source: str, columns: tuple[str, ...]) -> Callable[[Path], Iterator[Document]]:
    def read(path: Path) -> Iterator[Document]:
        import csv

        seen: set[str] = set()
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), 1):
                text = "\n".join(row.get(column) or "" for column in columns)
                kept = [s for s in split_sentences(clean_report(text)) if s not in seen]
                seen.update(kept)
                if kept:
                    yield Document(source, f"{source}:{number}", tuple(kept), False)

    return read


def _read_conll(path: Path) -> Iterator[Document]:
    """Sentences of a BIO file (one ``token<TAB>label`` a line, blank line between sentences)."""
    words: list[str] = []
    number = 0
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if line.strip():
            words.append(line.split("\t")[0])
        elif words:
            number += 1
            yield Document("cyner", f"cyner:{number}", (_detokenise(words),), False)
            words = []


def _detokenise(words: list[str]) -> str:
    text = " ".join(words)
    text = re.sub(r" ([.,;:!?%)\]’])", r"\1", text)
    return re.sub(r"([(\[]) ", r"\1", text)


def _read_plain(path: Path) -> Iterator[Document]:
    """One sentence a line; ``#`` starts a comment."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield Document("general", f"general:{number}", (line.strip(),), False)


MITRE_NOTICE = (
    "© 2025 The MITRE Corporation. This work is reproduced and distributed with the permission of "
    "The MITRE Corporation."
)

CORPUS_FILES: tuple[CorpusFile, ...] = (
    CorpusFile(
        "attack",
        "attack_descriptions.parquet",
        0.70,
        f"MITRE ATT&CK and CAPEC, royalty-free licence. {MITRE_NOTICE}",
        _read_attack,
    ),
    CorpusFile(
        "reports", "threat_reports.parquet", 0.14, "center-for-threat-informed-defense/tram, Apache-2.0", _read_reports
    ),
    CorpusFile("csaf", "csaf_advisories.parquet", 0.05, "cisagov/CSAF, US Government work", _read_csaf),
    CorpusFile(
        "kev",
        "known_exploited_vulnerabilities.csv",
        0.02,
        "cisagov/kev-data, CC0",
        _read_csv_columns("kev", ("vulnerabilityName", "shortDescription")),
    ),
    CorpusFile(
        "sigma",
        "sigma_rules.csv",
        0.03,
        "SigmaHQ/sigma, Detection Rule License 1.1, by the authors of the Sigma rules",
        _read_csv_columns("sigma", ("title", "description")),
    ),
    CorpusFile("cyner", "cyner/train.txt", 0.02, "aiforsec/CyNER, MIT", _read_conll),
)
GENERAL_ENGLISH = CorpusFile(
    "general", "general_english.txt", 0.015, "written for this project, same licence as the project", _read_plain
)


def general_english_path() -> Path:
    """The file of general English sentences that ships with this package."""
    return Path(__file__).with_name("data") / "general_english.txt"


def read_corpus(folder: Path, tell: Callable[[str], None]) -> tuple[list[Document], list[tuple[CorpusFile, Path]]]:
    """Read every corpus file that ``folder`` holds, and the general English of this package.

    ``tell`` gets one line a file: what was read, or that it is missing. Returns the documents that have a
    sentence, and the files they came from. Raises ``FileNotFoundError`` when no file of the corpus is there.
    """
    documents: list[Document] = []
    found: list[tuple[CorpusFile, Path]] = []
    candidates = [(entry, folder / entry.name) for entry in CORPUS_FILES]
    if not any(path.is_file() for _, path in candidates):
        names = ", ".join(entry.name for entry in CORPUS_FILES)
        raise FileNotFoundError(f"{folder} holds no corpus file; at least one of these is needed: {names}")
    for entry, path in [*candidates, (GENERAL_ENGLISH, general_english_path())]:
        if not path.is_file():
            tell(f"skipped {entry.name}: not in {folder}")
            continue
        read = [document for document in entry.read(path) if document.sentences]
        documents += read
        found.append((entry, path))
        held = sum(document.held_out for document in read)
        sentences = sum(len(document.sentences) for document in read)
        tell(f"read {entry.name}: {len(read)} documents, {sentences} sentences, {held} documents held out")
    return documents, found
