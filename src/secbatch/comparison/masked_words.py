"""Evaluation of fill-mask: the word that a sentence lost, among a model's predictions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from secbatch.comparison.evaluation import Measured
from secbatch.comparison.labelled_rows import LabelledRows
from secbatch.comparison.predictions import Predicted, Progress, predict
from secbatch.errors import InputError
from secbatch.evaluation.masked_words import HITS_AT, masked_word_metrics, masked_word_tally, rank
from secbatch.evaluation.tally import Figure
from secbatch.labelled.files import LabelledFiles, judge
from secbatch.labelled.tables import read_table
from secbatch.models.device import Compute
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.models.untrusted_text import MASK


@dataclass(frozen=True)
class MaskedWord:
    text: str  # with one <mask>
    words: tuple[str, ...]  # any of them is right
    part: str | None
    group: str | None


class MaskedWords(LabelledRows):
    """A column of texts with one `<mask>` each, and one of the words behind it.

    A text without `<mask>`, in which the word stands once, is masked there.
    """

    name = "fill-mask"
    parts_are = "part"

    def __init__(
        self,
        files: LabelledFiles,
        text: str,
        label: str,
        label_delimiter: str | None = None,
        part: str | None = None,
        group: str | None = None,
        top_k: int = 10,
        limit: int | None = None,
        like: Mapping[str, Any] | None = None,
    ) -> None:
        """`part`: a column that says which kind of word is masked. Raises InputError for rows that give no example."""
        rows = read_table(files)
        texts, labels = rows.texts(text, "--text"), rows.strings(label, "--label")
        parts = rows.strings(part, "--part") if part else [None] * len(texts)
        groups = rows.strings(group, "--group") if group else [None] * len(texts)
        examples: list[MaskedWord] = []
        for row, (body, value) in enumerate(zip(texts, labels, strict=True)):
            if limit is not None and len(examples) == limit:
                break
            if body is None or value is None:
                rows.reject(row, f"the {'text' if body is None else 'word'} is empty")
                continue
            if group is not None and groups[row] is None:
                rows.reject(row, f"the group ({group}) is missing")
                continue
            split = value.split(label_delimiter) if label_delimiter else [value]
            words = tuple(word for piece in split if (word := piece.strip()))
            if not words:
                rows.reject(row, "the word is empty")
                continue
            try:
                examples.append(MaskedWord(_masked(body, words), words, parts[row], groups[row]))
            except ValueError as error:
                rows.reject(row, str(error))
        notices = judge(rows.malformed, files, "rows")
        if not examples:
            raise InputError(f"{files.path}: no row gives an example")
        super().__init__([example.group for example in examples], rows.files, (*rows.notices, *notices))
        self._examples, self._like = examples, dict(like or {})
        self._top_k = top_k
        self._hits_at = tuple(k for k in HITS_AT if k <= top_k)
        self.headline = (*(f"hit@{k}" for k in self._hits_at), "mrr")
        self.method = (
            "One masked word a sentence; a hit at k when it is among the first k predicted words, case aside;"
            f" the reciprocal rank is 0 beyond the first {top_k}."
        )

    @property
    def figures(self) -> Mapping[str, Figure]:
        return masked_word_metrics(self._hits_at)

    def predict(self, model: str, compute: Compute, progress: Progress | None) -> Predicted:
        table = pa.table({"text": [example.text for example in self._examples]})
        settings = {**self._like, "type": "fill-mask", "text": "text", "top_k": min(1000, 2 * self._top_k)}
        return predict(model, settings, table, compute, progress)

    def measure(self, outcomes: Sequence[Predicted]) -> list[Measured]:
        return [self._measure(outcome) for outcome in outcomes]

    def _measure(self, outcome: Predicted) -> Measured:
        ranks = [
            self._rank(masks, example)
            for masks, example in zip(outcome.columns["_predictions"], self._examples, strict=True)
        ]
        tally = masked_word_tally(ranks, self._hits_at)
        kinds = sorted({example.part for example in self._examples if example.part is not None})
        parts = []
        for kind in kinds:
            rows = [row for row, example in enumerate(self._examples) if example.part == kind]
            own = masked_word_tally([ranks[row] for row in rows], self._hits_at)
            parts.append((kind, len(rows), self.figures, own, rows))
        return Measured(tally, parts, {"words_of_one_entry": self._coverage(outcome)})

    def _rank(self, masks: list[list[dict[str, Any]]] | None, example: MaskedWord) -> int | None:
        if not masks:
            return None
        place = rank([word["token"] for word in masks[0]], example.words)
        return place if place is not None and place <= self._top_k else None

    def _coverage(self, outcome: Predicted) -> float:
        """The share of rows whose word is one entry of the model's vocabulary: the others cannot be predicted."""
        tokenizer = load_tokenizer(outcome.model)
        different = sorted({word for example in self._examples for word in example.words})
        pieces = tokenizer.encode([f" {word}" for word in different], special_tokens=False).lengths.tolist()
        single = {word for word, count in zip(different, pieces, strict=True) if count == 1}
        return sum(any(word in single for word in example.words) for example in self._examples) / self.rows

    def notices(self, outcomes: Sequence[Predicted]) -> tuple[str, ...]:
        notices = list(super().notices(outcomes))
        for outcome in outcomes:
            covered = self._coverage(outcome)
            if covered < 1:
                notices.append(
                    f"{1 - covered:.1%} of the words are no single entry of the vocabulary of {outcome.model.name} and"
                    " count as misses"
                )
        return tuple(notices)


def _masked(text: str, words: Sequence[str]) -> str:
    """Raises ValueError, the end of a sentence, for a text that does not have one masked word."""
    masks = text.count(MASK)
    if masks == 1:
        return text
    if masks:
        raise ValueError(f"the text has {masks} times {MASK}; give one masked word a row")
    found = [match for word in words for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
    if len(found) != 1:
        often = "does not stand" if not found else f"stands {len(found)} times"
        raise ValueError(f"the text has no {MASK}, and the word '{words[0]}' {often} in it")
    return text[: found[0].start()] + MASK + text[found[0].end() :]
