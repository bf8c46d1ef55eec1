"""Texts within a template that has a `<mask>` of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.untrusted_text import MASK
from secbatch.models.windows import CHARACTERS_PER_TOKEN

_TEXT = "{text}"


@dataclass(frozen=True)
class Cloze:
    """A template around a text."""

    before: str
    after: str
    mask_id: int
    room: int  # tokens that are left for a text; below one, the template does not serve

    @classmethod
    def of(cls, template: str, tokenizer: TextTokenizer) -> "Cloze":
        """`template` has `{text}` and `<mask>` once each, and the tokenizer a mask."""
        assert tokenizer.mask_id is not None
        before, _, after = template.partition(_TEXT)
        own = tokenizer.encode([f"{before}{after}"])[0]
        masks = int((own == tokenizer.mask_id).sum())  # none, where an added word of the model takes its characters
        return cls(before, after, tokenizer.mask_id, tokenizer.max_length - len(own) if masks == 1 else 0)

    def masks(self, sequences: TokenSequences) -> np.ndarray:
        """[n] flat position of the template's mask in each sequence, whatever masks the texts themselves hold."""
        places = np.flatnonzero(sequences.ids == self.mask_id)
        if MASK in self.before:
            return places[np.searchsorted(places, sequences.offsets[:-1])]
        return places[np.searchsorted(places, sequences.offsets[1:]) - 1]


def cloze_texts(texts: Sequence[str], cloze: Cloze, tokenizer: TextTokenizer) -> tuple[TokenSequences, np.ndarray]:
    """Tokenises texts within the template, and whether a text was cut at its end to fit ([n] bool)."""
    reach = tokenizer.max_length * CHARACTERS_PER_TOKEN
    fitting = [text[:reach] for text in texts]
    sequences = tokenizer.encode([f"{cloze.before}{text}{cloze.after}" for text in fitting])
    truncated = np.array([len(text) > reach for text in texts], bool)
    too_long = np.flatnonzero(sequences.lengths > tokenizer.max_length)
    if not len(too_long):
        return sequences, truncated
    rows = [sequences[row] for row in range(len(sequences))]
    for row in too_long.tolist():
        text = fitting[row]
        while len(rows[row]) > tokenizer.max_length:
            text = _shortened(text, len(rows[row]) - tokenizer.max_length, tokenizer)
            rows[row] = tokenizer.encode([f"{cloze.before}{text}{cloze.after}"])[0]
    truncated[too_long] = True
    return TokenSequences.of(rows), truncated


def _shortened(text: str, tokens: int, tokenizer: TextTokenizer) -> str:
    """`text` without its last `tokens` tokens, and at least one character shorter."""
    located = tokenizer.located([text])
    if len(located.starts) <= tokens:
        return text[: len(text) // 2]
    return text[: min(int(located.starts[-tokens]), len(text) - 1)]
