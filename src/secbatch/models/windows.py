"""What of a long text a model gets to see: the part around its masks, or its beginning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.models.sequences import TokenSequences
from secbatch.models.texts import Texts
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.untrusted_text import MASK

# A text longer than this many characters for each position of the model is cut before it is tokenised, so
# that a field of 100 MB costs no more than one of 20 KB. Tokens of ordinary text have 2 to 6 characters.
CHARACTERS_PER_TOKEN = 40


@dataclass(frozen=True)
class MaskedTexts:
    """Texts as the model sees them."""

    sequences: TokenSequences  # [u] at most the model's positions long
    mask_counts: np.ndarray  # [u] int64: masks in the text
    seen: np.ndarray  # [u] int64: how many of them, from the first on, are in the sequence
    truncated: np.ndarray  # [u] bool: the text is longer than the window

    def without_tokens(self) -> "MaskedTexts":
        """All else, for when they are computed."""
        return replace(self, sequences=TokenSequences.of([]))


def around_masks(texts: Sequence[str], tokenizer: TextTokenizer) -> MaskedTexts:
    """Tokenises texts that hold `<mask>`; of one that is too long, a window around its masks.

    The window is centred on all masks when they fit into it together, otherwise on the first. Masks outside
    it are counted but not seen.
    """
    reach = tokenizer.max_length * CHARACTERS_PER_TOKEN
    texts = Texts.of(texts)
    counts = pc.count_substring(texts.column, MASK).to_numpy().astype(np.int64)
    truncated = np.zeros(len(texts), bool)
    cut: dict[int, str] = {row: _cut_around_masks(texts.alone(row), reach) for row in _longer(texts, reach)}
    if cut:
        lengths = pc.utf8_length(texts.column).to_numpy()
        truncated[[row for row, text in cut.items() if len(text) < lengths[row]]] = True
    sequences = tokenizer.encode(_with(texts, cut))
    too_long = sequences.lengths > tokenizer.max_length
    if too_long.any():
        rows = [sequences[row] for row in range(len(sequences))]
        for row in np.flatnonzero(too_long).tolist():
            rows[row] = _window(rows[row], tokenizer)
        sequences = TokenSequences.of(rows)
    # Places of masks, counted between the ends of the sequences.
    masks = np.searchsorted(np.flatnonzero(sequences.ids == tokenizer.mask_id), sequences.offsets)
    return MaskedTexts(sequences, counts, np.minimum(np.diff(masks), counts), truncated | too_long)


def from_start(texts: Sequence[str], tokenizer: TextTokenizer) -> TokenSequences:
    """Tokenises texts; of one that is too long, its beginning."""
    return beginnings(texts, tokenizer)[0]


def beginnings(texts: Sequence[str], tokenizer: TextTokenizer) -> tuple[TokenSequences, np.ndarray]:
    """As `from_start`, and whether a text is longer than what is left of it ([n] bool)."""
    limit = tokenizer.max_length
    reach = limit * CHARACTERS_PER_TOKEN
    truncated = np.zeros(len(texts), bool)
    texts = Texts.of(texts)
    cut = {row: texts.alone(row)[:reach] for row in _longer(texts, reach)}
    truncated[list(cut)] = True
    sequences = tokenizer.encode(_with(texts, cut))
    too_long = sequences.lengths > limit
    if not too_long.any():
        return sequences, truncated
    keep = limit - len(tokenizer.after)
    shortened = TokenSequences.of(
        [
            row if len(row) <= limit else np.concatenate([row[:keep], tokenizer.after])
            for row in (sequences[number] for number in range(len(sequences)))
        ]
    )
    return shortened, truncated | too_long


def _longer(texts: Texts, reach: int) -> list[int]:
    """Rows of the texts of more than `reach` characters."""
    lengths = pc.utf8_length(texts.column).to_numpy()
    rows: list[int] = np.flatnonzero(lengths > reach).tolist()
    return rows


def _with(texts: Texts, others: dict[int, str]) -> Texts:
    """`texts` with `others`, by row in ascending order, in some rows."""
    if not others:
        return texts
    changed = np.zeros(len(texts), bool)
    changed[list(others)] = True
    new = pa.array(list(others.values()), pa.large_string())
    return Texts(pc.replace_with_mask(texts.column, pa.array(changed), new))


def _cut_around_masks(text: str, reach: int) -> str:
    """`text` within `reach` characters of its masks (of the first, when they are further apart than that)."""
    first, last = text.find(MASK), text.rfind(MASK)
    if last - first > reach:
        last = first
    end = last + len(MASK) + reach
    # A mask that the end would split is left out whole.
    split = text.find(MASK, max(end - len(MASK) + 1, 0), end + len(MASK) - 1)
    return text[max(first - reach, 0) : split if split != -1 else end]


def _window(row: np.ndarray, tokenizer: TextTokenizer) -> np.ndarray:
    """A row of more tokens than the model has positions, cut to them; its first mask stays the first."""
    head, tail = len(tokenizer.before), len(tokenizer.after)
    body = row[head : len(row) - tail]
    size = tokenizer.max_length - head - tail
    masks = np.flatnonzero(body == tokenizer.mask_id)
    if not len(masks):  # an added word of the model took the mask's characters
        return np.concatenate([tokenizer.before, body[:size], tokenizer.after])
    last = masks[-1] if masks[-1] - masks[0] < size else masks[0]
    start = int(np.clip((masks[0] + last + 1 - size) // 2, 0, len(body) - size))
    return np.concatenate([tokenizer.before, body[start : start + size], tokenizer.after])
