"""Whole texts, however long, as sequences that a model can take: overlapping windows, each token read from one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.tokenizer import TextTokenizer

# A longer text is tokenised piece by piece, so that what the tokenizer makes of it stays small.
PIECE = 100_000
OVERLAP = 4  # windows share a quarter of their tokens


@dataclass(frozen=True)
class WindowedTexts:
    """u texts of N tokens together, special tokens not counted, in w windows."""

    ids: np.ndarray  # [N] int32
    starts: np.ndarray  # [N] int32, character of the text at which a token starts
    ends: np.ndarray  # [N] int32
    counts: np.ndarray  # [u] int64, tokens of each text
    sequences: TokenSequences  # [w], between the special tokens that every text gets
    source: np.ndarray  # [N] int64: where a token is read from, among the flat ids of the windows
    owners: np.ndarray  # [w] int64: the text of each window


def windowed(texts: Sequence[str], tokenizer: TextTokenizer) -> WindowedTexts:
    """Tokenises texts whole. A token in several windows is read from the one that shows most around it."""
    parts, owners, shifts = pieces(texts)
    located = tokenizer.located(parts)
    lengths = located.sequences.lengths  # of the pieces
    shift = np.repeat(shifts, lengths).astype(np.int32)
    counts = np.bincount(owners, weights=lengths, minlength=len(texts)).astype(np.int64)
    head, tail = len(tokenizer.before), len(tokenizer.after)
    first, sizes, kept = _windows(lengths, max(tokenizer.max_length - head - tail, 1))
    begin = located.sequences.offsets[:-1]
    piece = np.repeat(np.arange(len(lengths)), np.maximum(kept, 1))  # of each window
    body = begin[piece] + first  # where each window starts among the N tokens
    offsets = np.concatenate([[0], np.cumsum(sizes + head + tail)])
    ids = np.empty(int(offsets[-1]), np.int32)
    ids[(offsets[:-1, None] + np.arange(head)).ravel()] = np.tile(tokenizer.before, len(sizes))
    ids[(offsets[1:, None] - tail + np.arange(tail)).ravel()] = np.tile(tokenizer.after, len(sizes))
    places = spans(offsets[:-1] + head, sizes)
    tokens = spans(body, sizes)
    ids[places] = located.sequences.ids[tokens]
    source = np.zeros(len(located.sequences.ids), np.int64)
    mine = _best_window(first, sizes, piece)
    source[tokens[mine]] = places[mine]
    return WindowedTexts(
        located.sequences.ids,
        located.starts + shift,
        located.ends + shift,
        counts,
        TokenSequences(ids, offsets.astype(np.int64)),
        source,
        owners[piece],
    )


def pieces(texts: Sequence[str]) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
    """Texts, the long ones in pieces, with the number of each piece's text and its first character's place."""
    if max(map(len, texts), default=0) <= PIECE:
        return texts, np.arange(len(texts)), np.zeros(len(texts), np.int64)
    parts: list[str] = []
    owners: list[int] = []
    shifts: list[int] = []
    for number, text in enumerate(texts):
        start = 0
        while start < len(text) or not start:
            stop = len(text) if len(text) - start <= PIECE else _before_a_word(text, start, start + PIECE)
            parts.append(text[start:stop])
            owners.append(number)
            shifts.append(start)
            start = max(stop, 1)
    return parts, np.array(owners), np.array(shifts)


def _before_a_word(text: str, start: int, stop: int) -> int:
    """The last place, at most `stop`, where a word with the space before it starts; `stop` where there is none."""
    for mark in ("\n", " "):
        place = text.rfind(mark, start + 1, stop)
        if place > start:
            return place
    return stop


def _windows(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First token and length of each window, piece by piece, and the number of windows of each piece."""
    step = max(size - size // OVERLAP, 1)
    kept = np.where(lengths > size, -(-(lengths - size) // step) + 1, 1)
    number = spans(np.zeros(len(lengths), np.int64), kept)
    whole = np.repeat(lengths, kept)
    # The last window ends where the piece ends, so that it is as long as the others.
    first = np.minimum(number * step, np.maximum(whole - size, 0))
    return first, np.minimum(whole, size), kept


def _best_window(first: np.ndarray, sizes: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """For each token of each window, whether it is read from there: windows meet in the middle of their overlap."""
    same = piece[1:] == piece[:-1]
    middle = (first[1:] + first[:-1] + sizes[:-1]) // 2  # between a window and the next
    low = np.concatenate([[0], np.where(same, middle, first[1:])])[: len(first)]
    high = np.concatenate([np.where(same, middle, first[:-1] + sizes[:-1]), (first + sizes)[-1:]])
    token = spans(first, sizes)
    chosen: np.ndarray = (token >= np.repeat(low, sizes)) & (token < np.repeat(high, sizes))
    return chosen
