"""Token ids of many texts, laid end to end."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class TokenSequences:
    """n sequences of token ids in one flat array; sequence i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: np.ndarray  # [total tokens] int32
    offsets: np.ndarray  # [n + 1] int64, first 0, last the total
    types: np.ndarray | None = None  # [total tokens] int32, which of two texts a token is of; None: 0 for all

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def types_of(self, row: int) -> np.ndarray:
        """Which of two texts each token of a row is of."""
        assert self.types is not None
        return self.types[self.offsets[row] : self.offsets[row + 1]]

    def same_as(self, other: "TokenSequences") -> bool:
        """Whether both are the same sequences in the same order."""
        if self.types is None or other.types is None:
            same_types = self.types is other.types
        else:
            same_types = np.array_equal(self.types, other.types)
        return same_types and np.array_equal(self.offsets, other.offsets) and np.array_equal(self.ids, other.ids)

    @property
    def lengths(self) -> np.ndarray:
        """[n] int64"""
        return np.diff(self.offsets)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> "TokenSequences":
        """From one sequence of ids for each row."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(_flat(rows, int(offsets[-1])), offsets)

    @classmethod
    def of_lists(cls, rows: Iterable[list[int]]) -> "TokenSequences":
        """As `of`, from lists of ids that are made one by one: the quickest way out of a tokenizer."""
        flat, ends = array("i"), array("q", [0])
        for row in rows:
            flat.fromlist(row)
            ends.append(len(flat))
        return cls(np.frombuffer(flat, np.int32), np.frombuffer(ends, np.int64))

    @classmethod
    def joined(cls, parts: "Sequence[TokenSequences]") -> "TokenSequences":
        """The sequences of all parts, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        types = None
        if any(part.types is not None for part in parts):
            types = np.concatenate([np.zeros_like(part.ids) if part.types is None else part.types for part in parts])
        return cls(np.concatenate([part.ids for part in parts]), offsets, types)

    def select(self, rows: np.ndarray) -> "TokenSequences":
        """The sequences `rows` ([m] int), in that order."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts  # not self.lengths: that is of all rows, for each batch
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = spans(starts, lengths)
        return TokenSequences(self.ids[places], offsets, None if self.types is None else self.types[places])

    def slice(self, first: int, end: int) -> "TokenSequences":
        """The sequences from `first` up to but not with `end`."""
        span = slice(self.offsets[first], self.offsets[end])
        offsets = self.offsets[first : end + 1] - self.offsets[first]
        return TokenSequences(self.ids[span], offsets, None if self.types is None else self.types[span])

    def groups(self) -> list[tuple[int, int, int]]:
        """Runs of neighbours of one length: (first token, sequences, their length)."""
        lengths = self.lengths
        starts = np.flatnonzero(np.diff(lengths, prepend=-1))
        counts = np.diff(starts, append=len(lengths))
        return [
            (int(self.offsets[start]), int(count), int(lengths[start]))
            for start, count in zip(starts, counts, strict=True)
        ]

    def padded(self, pad_id: int, least: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """[n, longest] int64 ids and an attention mask of the same shape (1 real, 0 padding).

        `least`: columns, where the longest has fewer tokens.
        """
        lengths = self.lengths
        width = int(lengths.max(initial=least))
        real = np.arange(width) < lengths[:, None]
        ids = np.full((len(self), width), pad_id, np.int64)
        ids[real] = self.ids
        return ids, real.astype(np.int64)


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, … start + length - 1 of each span, one after another (int64)."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _flat(rows: Iterable[Iterable[int]], count: int) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.int32, count)
