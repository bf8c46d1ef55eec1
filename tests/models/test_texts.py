"""Texts that are a column: the same as a list of them, which nobody makes where words are looked up."""

import numpy as np
import pyarrow as pa
import pytest
from test_tokenizer import TOKENIZERS
from tiny_models import SENTENCES

from secbatch.models.sequences import TokenSequences
from secbatch.models.texts import Texts
from secbatch.models.tokenizer import FEW
from secbatch.models.windows import around_masks, from_start
from secbatch.tasks.repeats import Recalled, text_keys

MANY = [f"{sentence} Täxt, the <mask> of <mask>." for sentence in SENTENCES] * (FEW // len(SENTENCES) + 1)


def part_of_a_column(texts: list[str]) -> Texts:
    return Texts(pa.array(["before", "this", *texts, "and behind"], pa.large_string()).slice(2, len(texts)))


def same(some: TokenSequences, others: TokenSequences) -> bool:
    return some.ids.tolist() == others.ids.tolist() and some.offsets.tolist() == others.offsets.tolist()


def test_they_are_a_sequence_of_strings() -> None:
    texts = part_of_a_column(MANY)
    assert list(texts) == texts[:] == MANY and len(texts) == len(MANY)
    assert texts[3] == MANY[3] and texts[-2:] == MANY[-2:]
    assert Texts.of(texts) is texts and list(Texts.of(MANY)) == MANY
    assert list(texts.take(np.array([5, 0, 5]))) == [MANY[5], MANY[0], MANY[5]]
    assert not list(Texts.of([])) and not list(texts.take(np.array([], np.int64)))


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("count", [FEW - 1, FEW])
def test_they_are_tokenised_as_a_list_is(kind: str, count: int) -> None:
    tokenizer, listed = TOKENIZERS[kind], MANY[:count]
    assert same(from_start(part_of_a_column(listed), tokenizer), from_start(listed, tokenizer))
    some, others = around_masks(part_of_a_column(listed), tokenizer), around_masks(listed, tokenizer)
    assert same(some.sequences, others.sequences) and some.mask_counts.tolist() == [2] * count
    assert text_keys(part_of_a_column(listed)).tolist() == text_keys(listed).tolist()


def test_nobody_makes_strings_of_them_where_words_are_looked_up() -> None:
    tokenizer = TOKENIZERS["roberta"]
    from_start(MANY, tokenizer)  # its words are known now
    texts = part_of_a_column(MANY)
    text_keys(texts)
    around_masks(texts, tokenizer)
    from_start(texts, tokenizer)
    assert "_strings" not in vars(texts)


def test_texts_that_wait_to_be_finished_are_let_go_of() -> None:
    recalled = Recalled(np.arange(2), Texts.of(["a", "b"]), np.zeros((0, 2), np.uint64), [], ["c"])
    assert not recalled.without_texts().texts and not recalled.without_texts().known
