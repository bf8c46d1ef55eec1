"""Tokens of texts word by word: a word that was met before is looked up, not tokenised again.

Tokenizers that cut every text where a space follows a visible ASCII character make of each piece the same tokens
wherever it stands. GPT-2's byte-level pre-tokeniser and BERT's do: no match of theirs goes on over such a place, and
none looks back over one. Reports are written with few different words, so that of many texts nearly all is looked up.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordPiece

from secbatch.models.sequences import TokenSequences
from secbatch.models.texts import Texts

MOST_WORDS, MOST_BYTES = 1 << 18, 32 << 20  # remembered; beyond these all are forgotten, and learnt anew
BLOCK_BYTES = 1 << 19  # of texts that are cut into words at a time: what is made of them stays in the caches
TOGETHER = 32  # new words that make a text: each text has a price of its own
NEW_SHARE = 2  # texts of which more than one in so many words is new are tokenised as they are: that costs less
MOST_SKIPPED = 8  # calls that are not looked at, where those before them came with too many new words
SPACE, FIRST_VISIBLE, VISIBLE = 0x20, 0x21, 0x7F - 0x21  # of ASCII

_OVER_A_CUT = re.compile(r"[\x21-\x7e] ")
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}
_POST_PROCESSORS = {"RobertaProcessing", "BertProcessing", "TemplateProcessing", "ByteLevel"}


class WordTokens:
    """What a tokenizer makes of words, remembered within bounds. Any thread may ask."""

    def __init__(self, backend: Tokenizer, written: Callable[[str], str]) -> None:
        """`backend`: one for which `cuts_at_spaces` holds. `written`: a text as it is to be given to it."""
        self._backend, self._written = backend, written
        self._separator = _separator(backend)
        self._mutex = threading.Lock()
        self._refused = self._skipped = 0  # calls in a row
        self._forget()

    def __reduce__(self) -> tuple[type["WordTokens"], tuple[Tokenizer, Callable[[str], str]]]:
        return WordTokens, (self._backend, self._written)  # a copy elsewhere begins with nothing

    def _forget(self) -> None:
        self._number: dict[str, int] = {}
        self._bytes = 0
        self._tokens = TokenSequences(np.zeros(0, np.int32), np.zeros(1, np.int64))  # by number
        self._known: tuple[bytes, bytes, TokenSequences] | None = None  # see `_with_frame`

    def encode(self, texts: Sequence[str], before: np.ndarray, after: np.ndarray) -> TokenSequences | None:
        """Tokens of each text, between those of `before` and `after` (int32); None where too many words are new."""
        with self._mutex:
            if self._skipped < min(self._refused // 2, MOST_SKIPPED):
                self._skipped += 1
                return None
            found = self._looked_up(texts, before, after)
            self._refused, self._skipped = 0 if found is not None else self._refused + 1, 0
            return found

    def _looked_up(self, texts: Sequence[str], before: np.ndarray, after: np.ndarray) -> TokenSequences | None:
        column = Texts.of(texts).column
        offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset :][: len(texts) + 1]
        characters = np.frombuffer(column.buffers()[2] or b"", np.uint8)
        done, start = [], 0
        while start < len(texts):
            stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + BLOCK_BYTES, side="right")) - 1)
            here = characters[offsets[start] : offsets[stop]]
            block = self._encode(here, offsets[start : stop + 1] - offsets[start], before, after)
            if block is None:
                return None
            done.append(block)
            start = stop
        return done[0] if len(done) == 1 else TokenSequences.joined(done)

    def _encode(
        self, characters: np.ndarray, offsets: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> TokenSequences | None:
        """`characters`: uint8 [B], UTF-8 of n texts; `offsets`: int64 [n + 1] into it."""
        starts = _word_starts(characters, offsets)
        words = pa.LargeStringArray.from_buffers(
            len(starts), pa.py_buffer(np.append(starts, len(characters))), pa.py_buffer(characters)
        ).dictionary_encode()
        numbers = self._numbers(words.dictionary.to_pylist(), len(starts))
        if numbers is None:
            return None
        known = self._with_frame(before, after)
        n, first = len(offsets) - 1, np.searchsorted(starts, offsets)  # of each text, its first word
        chosen = np.empty(len(starts) + 2 * n, np.int64)
        frame = first + 2 * np.arange(n + 1)  # of each text, what stands before it
        inner = np.ones(len(chosen), bool)
        inner[frame[:-1]] = inner[frame[1:] - 1] = False
        chosen[frame[:-1]], chosen[frame[1:] - 1] = len(known) - 2, len(known) - 1
        chosen[inner] = numbers[words.indices.to_numpy()]
        tokens = known.select(chosen)
        return TokenSequences(tokens.ids, tokens.offsets[frame])

    def _with_frame(self, before: np.ndarray, after: np.ndarray) -> TokenSequences:
        """Tokens by number, and behind them what stands around every text: two more words."""
        frame = (before.tobytes(), after.tobytes())
        if self._known is None or self._known[:2] != frame:
            known = TokenSequences.joined([self._tokens, TokenSequences.of([before, after])])
            self._known = (*frame, known)
        return self._known[2]

    def _numbers(self, words: list[str], count: int) -> np.ndarray | None:
        """int64: the number of each of `words`; None where too many of them are new for `count` words of text."""
        if len(self._number) > MOST_WORDS or self._bytes > MOST_BYTES:
            self._forget()
        get = self._number.get
        numbers = np.array([get(word, -1) for word in words], np.int64)
        new = np.flatnonzero(numbers < 0)
        if len(new) * NEW_SHARE > count:
            return None
        if len(new):
            names = [words[place] for place in new.tolist()]
            learnt = self._tokenised(list(map(self._written, names)))
            numbers[new] = np.arange(len(self._tokens), len(self._tokens) + len(new))
            self._tokens, self._known = TokenSequences.joined([self._tokens, learnt]), None
            self._number.update(zip(names, numbers[new].tolist(), strict=True))
            self._bytes += sum(map(len, names)) + learnt.ids.nbytes
        return numbers

    def _tokenised(self, words: list[str]) -> TokenSequences:
        if self._separator is not None:
            name, number = self._separator
            texts = [name.join(words[place : place + TOGETHER]) + name for place in range(0, len(words), TOGETHER)]
            found = self._all_ids(texts)
            ends = np.flatnonzero(found.ids == number)
            if len(ends) == len(words):  # no word has the separator's token
                return TokenSequences(np.delete(found.ids, ends), np.append(0, ends - np.arange(len(ends))))
        return self._all_ids(words)

    def _all_ids(self, texts: list[str]) -> TokenSequences:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return TokenSequences.of_lists(encoding.ids for encoding in encodings)


def _separator(backend: Tokenizer) -> tuple[str, int] | None:
    """A special token, and its id, that can stand between words without changing their tokens."""
    for number, token in backend.get_added_tokens_decoder().items():
        plain = not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        if token.special and plain and token.content != getattr(backend.model, "unk_token", None):
            return token.content, number
    return None


def _word_starts(characters: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64 [w]: where words start: a text does, and a space after a visible ASCII character."""
    starts = np.zeros(len(characters) + 1, bool)
    visible = characters[:-1] - np.uint8(FIRST_VISIBLE) < VISIBLE  # wraps below
    np.logical_and(characters[1:] == SPACE, visible, out=starts[1:-1])
    starts[offsets] = True  # of empty texts, the one after them
    return np.flatnonzero(starts[:-1])


def cuts_at_spaces(backend: Tokenizer) -> bool:
    """Whether each piece of a text that starts with a space after a visible ASCII character has tokens of its own."""
    model, before = backend.model, _steps(backend.pre_tokenizer, "pretokenizers")
    return (
        (isinstance(model, WordPiece) or (isinstance(model, BPE) and not model.dropout))
        and len(before) == 1
        and (before[0]["type"] == "BertPreTokenizer" or (before[0]["type"] == "ByteLevel" and before[0]["use_regex"]))
        and all(one["type"] in _NORMALIZERS for one in _steps(backend.normalizer, "normalizers"))
        and all(map(_puts_around_it, _steps(backend.post_processor, "processors")))
        and not any(_looks_over_a_cut(token, backend) for token in backend.get_added_tokens_decoder().values())
        and backend.truncation is None
        and backend.padding is None
    )


def _steps(step: Any, key: str) -> list[Mapping[str, Any]]:
    """The settings of a tokenizer's step, and of those inside it (under `key`) where it is a sequence."""

    def flat(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [one for inner in spec[key] for one in flat(inner)] if spec["type"] == "Sequence" else [spec]

    return [] if step is None else flat(json.loads(step.__getstate__()))


def _puts_around_it(step: Mapping[str, Any]) -> bool:
    """Whether a step after the model leaves a text's tokens together, between others."""
    once = sum("Sequence" in piece for piece in step.get("single", ({"Sequence": "A"},))) == 1
    return step["type"] in _POST_PROCESSORS and once


def _looks_over_a_cut(token: AddedToken, backend: Tokenizer) -> bool:
    """Whether what an added token matches, or the white space that it takes, may go on over a cut."""
    # A normaliser can make a space, or a visible ASCII character before one, of another character.
    made = backend.normalizer.normalize_str(token.content) if token.normalized and backend.normalizer else ""
    alone = token.single_word and any(map(str.isspace, token.content + made))
    return bool(token.rstrip or alone or _OVER_A_CUT.search(token.content) or _OVER_A_CUT.search(made))
