"""Texts to token ids in bulk, and ids to words."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer_panics import panics_told
from secbatch.models.untrusted_text import MASK, trusted, untrusted_tokenizer
from secbatch.models.word_tokens import WordTokens, cuts_at_spaces

# Texts tokenised at a time: enough for all cores, few enough that what the library makes of them stays small
# (4 KB a sentence, until its ids are copied out).
CHUNK = 1024
FEW = 64  # texts that are not worth cutting into words
HIGHEST_ID = 1 << 24  # of an entry; the largest vocabularies there are have a million
CHUNK_CHARACTERS = 1 << 20  # of texts whose tokens' places are wanted: these cost 200 bytes a token


@dataclass(frozen=True)
class LocatedTokens:
    """Tokens of n texts, and the characters (code points) of its text that each of the T tokens stands for."""

    sequences: TokenSequences
    starts: np.ndarray  # [T] int32
    ends: np.ndarray  # [T] int32


class TextTokenizer:
    """A model's tokenizer for untrusted text (see `untrusted_text`), Rust underneath.

    `hf` is the transformers tokenizer it was made from, for trusted text and for decoding.
    """

    def __init__(self, hf: Any, max_length: int) -> None:
        self.hf = hf
        self.max_length = max_length  # positions of the model, special tokens counted
        self.mask_id: int | None = hf.mask_token_id
        self.pad_id: int = hf.pad_token_id if hf.pad_token_id is not None else (hf.eos_token_id or 0)
        self.top_id: int = max(hf.get_vocab().values())  # of the vocabulary's entries
        if self.top_id > HIGHEST_ID:  # the library keeps a list of all numbers below it that no entry has
            raise ValueError(f"an entry of its vocabulary has the number {self.top_id:,}")
        self._backend, self._secret = untrusted_tokenizer(hf.backend_tokenizer, hf.mask_token)
        self._mask: str = self._secret[hf.mask_token] if hf.mask_token is not None else MASK
        # A word between them tells the special tokens before a text from those after it: one that has tokens.
        words = ["a", *self._secret.values()]
        self._word = next((word for word in words if self._backend.encode(word, add_special_tokens=False).ids), "a")
        marked = self._backend.encode(self._word)
        body = [i for i, special in enumerate(marked.special_tokens_mask) if not special]
        first, last = (body[0], body[-1] + 1) if body else (len(marked.ids), len(marked.ids))
        if marked.ids[first:last] != _ids_alone(self._backend, self._word):
            raise ValueError("between the special tokens that it puts around a text stands something else")
        around = (*marked.ids[:first], *marked.ids[last:])
        if self.mask_id in around:
            raise ValueError("its mask is one of the special tokens that stand around every text")
        if max(around, default=0) > self.top_id:
            raise ValueError(f"around every text it puts the token {max(around):,}, which its vocabulary has not")
        self.before = np.array(marked.ids[:first], np.int32)  # special tokens before every text
        self.after = np.array(marked.ids[last:], np.int32)  # and after it
        self._by_word = WordTokens(self._backend, self._hidden) if cuts_at_spaces(self._backend) else None
        self._words: np.ndarray = np.zeros(0, object)  # by id
        self._known: np.ndarray = np.zeros(0, bool)  # by id: whether it is decoded yet
        self._column: pa.Array | None = None  # `_words` as an Arrow column, made anew when there are more
        self._same_word: np.ndarray = np.zeros(0, np.int64)  # by id: one id for all that decode to one word
        self._id_of_word: dict[str, int] = {}

    @panics_told()
    def encode(self, texts: Sequence[str], special_tokens: bool = True) -> TokenSequences:
        """Token ids of untrusted texts, whole: nothing is cut. Raises UntokenizableError."""
        if self._by_word and len(texts) >= FEW:
            nothing = np.zeros(0, np.int32)
            around = (self.before, self.after) if special_tokens else (nothing, nothing)
            if (found := self._by_word.encode(texts, *around)) is not None:
                return found

        def ids_of(start: int) -> TokenSequences:
            chunk = list(map(self._hidden, texts[start : start + CHUNK]))
            encodings = self._backend.encode_batch_fast(chunk, add_special_tokens=special_tokens)
            return TokenSequences.of_lists(encoding.ids for encoding in encodings)

        if len(texts) <= CHUNK:
            return ids_of(0)
        # Two threads: the cores tokenise one chunk while the ids of the other are copied out.
        with ThreadPoolExecutor(2) as pool:
            return TokenSequences.joined(list(pool.map(ids_of, range(0, len(texts), CHUNK))))

    def _hidden(self, text: str) -> str:
        """`text` as the backend is to see it: each mask under its secret name."""
        return text.replace(MASK, self._mask)

    def encode_with_offsets(self, texts: Sequence[str]) -> tuple[TokenSequences, np.ndarray]:
        """As `located`, with offsets [T, 2] int64 that leave out the white space that byte-level tokens begin with."""
        found = self.located(texts)
        offsets = np.stack([found.starts, found.ends], axis=1).astype(np.int64)
        ends = found.sequences.offsets
        for number, text in enumerate(texts):
            here = slice(ends[number], ends[number + 1])
            offsets[here] = _without_spaces(text, offsets[here])
        return found.sequences, offsets

    def framed_pair(self) -> Any:
        """The `tokenizers.Encoding` of a pair of words of the program's own, to see what stands around two texts."""
        return self._backend.encode(self._word, self._word)

    @panics_told()
    def located(self, texts: Sequence[str]) -> "LocatedTokens":
        """As `encode`, without special tokens, with each token's place in its text."""
        rows: list[np.ndarray] = []
        places: list[np.ndarray] = [np.zeros((0, 2), np.int32)]
        for chunk in _chunks(texts):
            hidden = list(map(self._hidden, chunk))
            for text, found in zip(chunk, self._backend.encode_batch(hidden, add_special_tokens=False), strict=True):
                rows.append(np.array(found.ids, np.int32))
                place = np.array(found.offsets, np.int32).reshape(-1, 2)
                places.append(self._unhidden(text, place) if MASK in text else place)
        flat = np.concatenate(places)
        ids = np.concatenate([np.zeros(0, np.int32), *rows])
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return LocatedTokens(TokenSequences(ids, offsets), flat[:, 0], flat[:, 1])

    def _unhidden(self, text: str, places: np.ndarray) -> np.ndarray:
        """Places in `text` for those in the form that the backend saw, where each mask has its secret name."""
        longer = len(self._mask) - len(MASK)
        masks = np.array([found.start() for found in re.finditer(re.escape(MASK), text)])
        ends = masks + len(MASK) + longer * np.arange(1, len(masks) + 1)  # as the backend saw them
        return (places - longer * np.searchsorted(ends, places, side="right")).astype(np.int32)

    @property
    def marks_inner_pieces(self) -> bool:
        """Whether the vocabulary marks pieces that do not start a word (WordPiece's ##)."""
        return bool(getattr(self.hf.backend_tokenizer.model, "continuing_subword_prefix", None))

    def written_lengths(self) -> np.ndarray:
        """[entries] int64: characters of each vocabulary entry as it is written, marks included."""
        lengths = np.zeros(self.top_id + 1, np.int64)
        for entry, number in self.hf.get_vocab().items():
            lengths[number] = len(entry)
        return lengths

    def trusted(self, text: str) -> str:
        """`text` with its special tokens in the form that `encode` takes for special tokens.

        For text that the program itself wrote, such as the frame of a chat template; rows are put in
        afterwards.
        """
        return trusted(text, self._secret)

    def words(self, ids: np.ndarray) -> np.ndarray:
        """The word of each id, decoded and stripped: object array of str, of the shape of `ids`.

        Each vocabulary entry is decoded once.
        """
        self._decode(ids)
        return self._words[ids]

    def word_column(self, ids: np.ndarray, absent: np.ndarray | None = None) -> pa.Array:
        """As `words`, of ids [m]: string [m]; null where `absent` ([m] bool) says so."""
        self._decode(ids)
        if self._column is None:
            self._column = pa.array(self._words, pa.string(), mask=~self._known)
        return self._column.take(pa.array(ids, mask=absent))

    def same_words(self, ids: np.ndarray) -> np.ndarray:
        """For each id, a number shared by all ids whose stripped words are the same (int64, same shape)."""
        self._decode(ids)
        return self._same_word[ids]

    @panics_told()
    def _decode(self, ids: np.ndarray) -> None:
        top = int(ids.max(initial=-1)) + 1
        if top > len(self._words):
            size = max(top, len(self.hf))
            self._words = np.concatenate([self._words, np.zeros(size - len(self._words), object)])
            self._known = np.concatenate([self._known, np.zeros(size - len(self._known), bool)])
            self._same_word = np.concatenate([self._same_word, np.arange(len(self._same_word), size)])
        known = self._known[ids]
        if known.all():
            return
        unknown = np.unique(ids[~known])
        decoded = self.hf.batch_decode([[token] for token in unknown.tolist()])
        for token, text in zip(unknown.tolist(), decoded, strict=True):
            word = text.strip()
            self._words[token] = word
            # Part of a character, or nothing: such tokens look alike and are not.
            if word and "\ufffd" not in word:
                self._same_word[token] = self._id_of_word.setdefault(word, token)
        self._known[unknown] = True
        self._column = None


def _ids_alone(backend: Any, word: str) -> list[int]:
    """The ids of a word with nothing put around it, and nothing in its place."""
    puts_around, backend.post_processor = backend.post_processor, None
    ids: list[int] = backend.encode(word).ids
    backend.post_processor = puts_around
    return ids


def _without_spaces(text: str, offsets: np.ndarray) -> np.ndarray:
    """[t, 2] int64: the offsets of one text's tokens, moved behind the white space that they begin with."""
    moved = offsets.copy()
    blank = np.fromiter((character.isspace() for character in text), bool, len(text))
    while True:
        inside = moved[:, 0] < moved[:, 1] - 1
        inside[inside] = blank[moved[inside, 0]]
        if not inside.any():
            return moved
        moved[inside, 0] += 1


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbouring texts, of at most CHUNK_CHARACTERS together or one text."""
    start = size = 0
    for place, text in enumerate(texts):
        if place > start and (size + len(text) > CHUNK_CHARACTERS or place - start == CHUNK):
            yield texts[start:place]
            start, size = place, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]
