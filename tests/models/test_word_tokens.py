"""Tokens looked up word by word are those of the whole text."""

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import TOKENIZERS
from tiny_models import SENTENCES
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from secbatch.models import word_tokens
from secbatch.models.pairs import PairFrame
from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import FEW, TextTokenizer
from secbatch.models.word_tokens import WordTokens, cuts_at_spaces

CUT = ["roberta", "bert", "modernbert"]
SPACES = [" ", "  ", "\t", "\n", " \n ", "\u00a0", "\u2003", "\u200b", "\x85", "\x1c", "\x00", "\u3000"]
pieces = (
    st.sampled_from([*" ".join(SENTENCES).split(), *SPACES, "<mask>", "<mask>,", "</s>", "'s", "don't", "é", "\u0301"])
    | st.text(max_size=5)
    | st.text(st.characters(max_codepoint=127), max_size=5)
)
texts = st.lists(pieces, max_size=14).flatmap(lambda parts: st.sampled_from(["", " "]).map(lambda by: by.join(parts)))


def looked_up(tokenizer: TextTokenizer, many: list[str]) -> TokenSequences:
    assert tokenizer._by_word is not None
    found = tokenizer._by_word.encode(many, tokenizer.before, tokenizer.after)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def any_new_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tokens, "NEW_SHARE", 0)


@pytest.mark.parametrize("kind", CUT)
@settings(max_examples=150, deadline=None)
@given(many=st.lists(texts, min_size=1, max_size=6))
def test_words_have_the_tokens_of_the_whole_text(kind: str, many: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    assert len(many) < FEW  # `encode` gives the texts to the backend as they are
    found, wanted = looked_up(tokenizer, many), tokenizer.encode(many)
    assert found.ids.tolist() == wanted.ids.tolist() and found.offsets.tolist() == wanted.offsets.tolist()


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("size", ["MOST_WORDS", "BLOCK_BYTES", "TOGETHER"])
def test_what_is_forgotten_or_cut_changes_nothing(kind: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS[kind]
    many = [*SENTENCES, "", "  ", " a <mask> b ", "", *reversed(SENTENCES), ""]
    wanted = tokenizer.encode(many)
    monkeypatch.setattr(word_tokens, size, 3)
    for _ in range(3):
        found = looked_up(tokenizer, many)
        assert found.ids.tolist() == wanted.ids.tolist() and found.offsets.tolist() == wanted.offsets.tolist()


def test_many_texts_are_looked_up_and_few_or_new_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(TOKENIZERS["roberta"].hf, 64)
    wanted = [tokenizer.encode([text])[0].tolist() for text in SENTENCES]
    assert not tokenizer._by_word._number  # type: ignore[union-attr]
    monkeypatch.setattr(word_tokens, "NEW_SHARE", 2)
    assert tokenizer._by_word.encode(SENTENCES, tokenizer.before, tokenizer.after) is None  # type: ignore[union-attr]
    found = tokenizer.encode(SENTENCES * FEW)
    assert [found[row].tolist() for row in range(len(SENTENCES))] == wanted
    assert len(tokenizer._by_word._number) > 50  # type: ignore[union-attr]
    assert not pickle.loads(pickle.dumps(tokenizer))._by_word._number


def test_where_hardly_a_word_comes_again_few_calls_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tokens, "NEW_SHARE", 2)
    words, nothing, looked = WordTokens(TOKENIZERS["roberta"]._backend, str), np.zeros(0, np.int32), 0
    look = words._looked_up

    def counted(*given: Any) -> TokenSequences | None:
        nonlocal looked
        looked += 1
        return look(*given)

    monkeypatch.setattr(words, "_looked_up", counted)
    for number in range(100):
        assert words.encode([f"{number:x}a {number:x}b"], nothing, nothing) is None
    assert 10 < looked < 30
    found = [words.encode(["a b a b a b a b"], nothing, nothing) for _ in range(20)]
    assert sum(one is None for one in found) <= word_tokens.MOST_SKIPPED and found[-1] is not None
    assert words.encode(["new word"], nothing, nothing) is None
    assert words.encode(["a b a b"], nothing, nothing) is not None  # it goes on at once


def test_a_word_with_the_separators_own_token_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS["bert"]
    backend = Tokenizer.from_str(tokenizer._backend.to_str())
    words = WordTokens(backend, str)
    name, number = words._separator  # type: ignore[misc]
    nothing = np.zeros(0, np.int32)
    found = words.encode([f"a {name} b", "a b"], nothing, nothing)
    assert found is not None and found[0].tolist() == backend.encode(f"a {name} b", add_special_tokens=False).ids
    assert number in found[0] and number not in found[1]


def test_tokenizers_that_look_over_a_space_are_left_alone() -> None:
    assert not cuts_at_spaces(TOKENIZERS["unigram"]._backend)
    plain = TOKENIZERS["roberta"]._backend.to_str()
    changes = {
        "a word with a space in it": lambda one: one.add_tokens(["New York"]),
        "a word that takes the spaces after it": lambda one: one.add_tokens([AddedToken("x", rstrip=True)]),
        "a normaliser that may look anywhere": lambda one: setattr(one, "normalizer", normalizers.Strip()),
        "another pre-tokeniser": lambda one: setattr(one, "pre_tokenizer", pre_tokenizers.Digits()),
        "truncation": lambda one: one.enable_truncation(8),
        "padding": lambda one: one.enable_padding(),
    }
    for what, change in changes.items():
        backend = Tokenizer.from_str(plain)
        assert cuts_at_spaces(backend)
        change(backend)
        assert not cuts_at_spaces(backend), what


@pytest.mark.parametrize(
    ("token", "normalizer"),
    [
        (AddedToken("a´b"), normalizers.NFKC()),  # ´ is a space and an accent
        (AddedToken("a中b"), normalizers.BertNormalizer()),  # spaces are put around 中
        (AddedToken("é b"), normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        (AddedToken("´x", single_word=True), normalizers.NFKC()),
    ],
)
def test_what_a_normaliser_makes_of_an_added_token(token: AddedToken, normalizer: normalizers.Normalizer) -> None:
    backend = Tokenizer.from_str(TOKENIZERS["roberta"]._backend.to_str())
    backend.normalizer = normalizer
    assert cuts_at_spaces(backend)
    backend.add_tokens([token])
    assert not cuts_at_spaces(backend)


def test_what_stands_around_a_text_is_found_where_no_text_has_tokens() -> None:
    """A vocabulary without the letter a, and no unknown token: "a" has no tokens."""
    backend = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "<mask>": 2, "b": 3, "\u0120": 4}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<s>", "</s>", "<mask>"])
    backend.post_processor = processors.BertProcessing(("</s>", 1), ("<s>", 0))
    tokenizer = TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>"), 64)
    assert (tokenizer.before.tolist(), tokenizer.after.tolist()) == ([0], [1])
    assert looked_up(tokenizer, ["b a b", "a", ""]).ids.tolist() == [0, 3, 4, 4, 3, 1, 0, 1, 0, 1]
    frame = PairFrame.of(tokenizer, BertConfig(), "question-answering")
    assert [part.tolist() for part in (frame.before, frame.between, frame.after)] == [[0], [1], [1]]


def test_a_template_that_has_the_text_twice_is_left_alone() -> None:
    backend = Tokenizer.from_str(TOKENIZERS["roberta"].hf.backend_tokenizer.to_str())
    assert cuts_at_spaces(backend)
    backend.post_processor = processors.TemplateProcessing("$A $A", special_tokens=[])
    assert not cuts_at_spaces(backend)


def test_starts_of_words() -> None:
    many = ["", "ab  c", "", " d", "e\u00e9 f", ""]
    column = pa.array(many, pa.large_string())
    offsets = np.frombuffer(column.buffers()[1], np.int64, len(many) + 1)
    characters = np.frombuffer(column.buffers()[2], np.uint8)
    # After é no word starts: only ASCII is looked at.
    assert word_tokens._word_starts(characters, offsets).tolist() == [0, 2, 5, 7]
