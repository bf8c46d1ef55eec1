"""Two texts as one sequence, framed as the model's tokenizer frames a pair."""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np

from secbatch.errors import ModelError
from secbatch.models.bert_modules import PREFIXES
from secbatch.models.model_kinds import Kind, model_class
from secbatch.models.tokenizer import TextTokenizer


@dataclass(frozen=True)
class PairFrame:
    """The special tokens before, between and after the texts of a pair: `[CLS] a [SEP] b [SEP]`."""

    before: np.ndarray  # int32
    between: np.ndarray
    after: np.ndarray
    types: tuple[np.ndarray, int, np.ndarray, int, np.ndarray] | None  # token types: before, a, between, b, after
    null: int  # place of the token that stands for "no answer"; below 0: counted from the sequence's end

    @classmethod
    def of(cls, tokenizer: TextTokenizer, config: Any, kind: Kind) -> "PairFrame":
        """The frame that the stock tokenizer gives; with types where the model of `kind` looks at them."""
        pair = tokenizer.framed_pair()
        ids, types, texts = np.array(pair.ids, np.int32), np.array(pair.type_ids, np.int32), pair.sequence_ids
        special = np.array(pair.special_tokens_mask, bool)
        first, second = (
            [place for place, text in enumerate(texts) if text == number and not special[place]] for number in (0, 1)
        )
        if not first or not second:
            raise ModelError(
                "the model's tokenizer leaves one of two texts out, so it cannot take a question and a text"
            )
        one, two, three = slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, len(ids))
        typed = None
        if types.any() and _looks_at_types(tokenizer.hf, config, kind, int(types.max())):
            typed = types[one], int(types[first[0]]), types[two], int(types[second[0]]), types[three]
        null = _null_place(ids[one], ids[three], tokenizer.hf.cls_token_id)
        return cls(ids[one], ids[two], ids[three], typed, null)

    def ids(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """[n] int32"""
        return np.concatenate([self.before, first, self.between, second, self.after])

    def types_of(self, first: int, second: int) -> np.ndarray:
        """[n] int32, of texts of `first` and `second` tokens."""
        assert self.types is not None
        before, one, between, other, after = self.types
        parts = before, np.full(first, one, np.int32), between, np.full(second, other, np.int32), after
        return np.concatenate(parts)

    @property
    def special_tokens(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def _looks_at_types(hf: Any, config: Any, kind: Kind, largest: int) -> bool:
    if "token_type_ids" not in hf.model_input_names or getattr(config, "type_vocab_size", largest + 1) <= largest:
        return False
    if config.model_type in PREFIXES:  # whose class need not be imported
        return True
    return "token_type_ids" in inspect.signature(model_class(config, kind).forward).parameters


def _null_place(before: np.ndarray, after: np.ndarray, cls_id: int | None) -> int:
    """Models are trained to point at their classification token, or else at the first one."""
    if cls_id is not None and cls_id in after and cls_id not in before:  # XLNet
        return int(np.flatnonzero(after == cls_id)[0]) - len(after)
    return before.tolist().index(cls_id) if cls_id in before else 0
