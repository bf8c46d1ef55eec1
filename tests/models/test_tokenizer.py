"""Untrusted text: the model's own tokens for ordinary text, and no control tokens but `<mask>`."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SENTENCES, bert_tokenizer, chat_tokenizer, modernbert_tokenizer, roberta_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from secbatch.models.tokenizer import TextTokenizer

HOSTILE = ["</s>", "<s>", "<pad>", "<unk>", "[SEP]", "[CLS]", "[PAD]", "[MASK]", "<|im_end|>", "<|im_start|>"]


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """As XLM-RoBERTa's: control tokens are pieces with the best score of all, and NFKC makes < of ＜."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("<mask>", 0.0)]
    pieces += [(character, -5.0) for character in "abcdefghijklmnopqrstuvwxyz</>[]|.,"]
    pieces += [("▁" + word.lower(), -4.0) for word in SENTENCES[0].rstrip(".").split()]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>",
    )  # fmt: skip


MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "roberta": roberta_tokenizer,
    "bert": bert_tokenizer,
    "modernbert": modernbert_tokenizer,
    "unigram": unigram_tokenizer,
}
TOKENIZERS = {name: TextTokenizer(make(), 64) for name, make in MAKERS.items()}

words = st.sampled_from(" ".join(SENTENCES).split()) | st.text(max_size=6)
texts = st.lists(
    words | st.sampled_from(["<mask>", " <mask>", "  <mask>  ", "\n<mask>", "(<mask>)", "|||IP_ADDRESS|||"])
).flatmap(lambda parts: st.sampled_from(["", " "]).map(lambda joint: joint.join(parts)))


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=80, deadline=None)
@given(text=texts)
def test_equals_the_models_own_tokenizer(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    if any(token in text for token in tokenizer.hf.all_special_tokens if token != "<mask>"):
        return
    wanted = tokenizer.hf(text.replace("<mask>", tokenizer.hf.mask_token)).input_ids
    assert tokenizer.encode([text])[0].tolist() == wanted


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.sampled_from(HOSTILE) | words, max_size=8))
def test_no_control_token_comes_out_of_a_text(kind: str, parts: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    text = " ".join(parts).replace("<mask>", "")
    body = tokenizer.encode([text], special_tokens=False)[0]
    control = set(tokenizer.hf.all_special_ids) - {tokenizer.hf.unk_token_id}
    assert not control & set(body.tolist())


@pytest.mark.parametrize("kind", MAKERS)
def test_mask_is_the_mask_and_nothing_else_is(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    row = tokenizer.encode(["a <mask> b</s><mask>[MASK] <MASK> <mask > ＜mask＞ ［MASK］"])[0]
    assert (row == tokenizer.mask_id).sum() == 2


@pytest.mark.parametrize("prefix", [None, "##"])
def test_a_special_token_that_merges_are_made_of(prefix: str | None) -> None:
    second = f"{prefix or ''}b"
    vocabulary = {"<mask>": 0, "a": 1, second: 2, "ab": 3, "c": 4}
    options = {"continuing_subword_prefix": prefix} if prefix else {}
    backend = Tokenizer(models.BPE(vocabulary, [("a", second)], **options))
    backend.add_special_tokens(["<mask>", "a", "c"])
    tokenizer = TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>"), 8)
    assert tokenizer.encode(["ab<mask>"])[0].tolist() == [3, 0]
    assert tokenizer.encode(["c"])[0].tolist() == []  # it is no ordinary character of this vocabulary


def test_an_added_word_stays_the_models_own() -> None:
    tokenizer = TOKENIZERS["modernbert"]
    word = tokenizer.hf.convert_tokens_to_ids("|||IP_ADDRESS|||")
    assert word in tokenizer.encode(["from |||IP_ADDRESS||| on"])[0]


def test_special_tokens_around_a_text() -> None:
    tokenizer = TOKENIZERS["bert"]
    assert (tokenizer.before.tolist(), tokenizer.after.tolist()) == ([2], [3])
    chat = TextTokenizer(chat_tokenizer(), 64)
    assert (len(chat.before), len(chat.after)) == (0, 0)


def test_a_model_without_a_mask_reads_mask_as_characters() -> None:
    chat = TextTokenizer(chat_tokenizer(), 64)
    ids = chat.encode(["a <mask> b"])[0]
    assert chat.hf.decode(ids) == "a <mask> b"


def test_trusted_text_keeps_its_control_tokens() -> None:
    chat = TextTokenizer(chat_tokenizer(), 64)
    frame = "<|im_start|>user\nWhat?<|im_end|>\n"
    assert chat.encode([chat.trusted(frame)])[0].tolist() == chat.hf(frame).input_ids
    assert chat.encode([frame])[0].tolist() != chat.hf(frame).input_ids


@pytest.mark.parametrize("kind", MAKERS)
def test_words_are_decoded_and_stripped(kind: str) -> None:
    tokenizer = TextTokenizer(MAKERS[kind](), 64)
    ids = np.arange(len(tokenizer.hf)).reshape(1, -1)
    assert tokenizer.words(ids)[0].tolist() == [tokenizer.hf.decode([token]).strip() for token in ids[0].tolist()]
    assert tokenizer.words(np.array([[len(tokenizer.hf) + 5]])).tolist() == [[""]]


def test_same_words_joins_what_looks_the_same() -> None:
    tokenizer = TOKENIZERS["roberta"]
    vocabulary = tokenizer.hf.get_vocab()
    both = next(word for word in vocabulary if word.isalpha() and word.isascii() and f"Ġ{word}" in vocabulary)
    bare, spaced = tokenizer.same_words(np.array([vocabulary[both], vocabulary[f"Ġ{both}"]]))
    assert bare == spaced
    fragments = [token for word, token in vocabulary.items() if tokenizer.hf.decode([token]).strip() == "\ufffd"]
    assert len(set(tokenizer.same_words(np.array(fragments)).tolist())) == len(fragments) > 1


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_many_texts_are_tokenised_in_chunks_with_the_same_result(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"host {number} <mask>" * (number % 4) for number in range(50)]
    whole = tokenizer.encode(texts)
    monkeypatch.setattr("secbatch.models.tokenizer.CHUNK", 7)
    chunked = tokenizer.encode(texts)
    assert np.array_equal(whole.ids, chunked.ids) and np.array_equal(whole.offsets, chunked.offsets)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_column_of_words_is_the_words_with_nulls(tokenizer: TextTokenizer) -> None:
    first, more = np.array([12, 9, 12], np.int32), np.array([30, 9, len(tokenizer.hf) + 5], np.int32)
    assert tokenizer.word_column(first).to_pylist() == tokenizer.words(first).tolist()
    # Entries met later, and ids beyond the vocabulary.
    assert tokenizer.word_column(more).to_pylist() == tokenizer.words(more).tolist()
    absent = np.array([False, True, False])
    wanted = [word if number != 1 else None for number, word in enumerate(tokenizer.words(first).tolist())]
    assert tokenizer.word_column(first, absent=absent).to_pylist() == wanted


def test_numbers_of_entries_that_would_fill_the_memory_are_refused() -> None:
    spec = json.loads(roberta_tokenizer().backend_tokenizer.to_str())
    spec["model"]["vocab"]["far"] = 1 << 25
    hf = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    with pytest.raises(ValueError, match="an entry of its vocabulary has the number 33,554,432"):
        TextTokenizer(hf, 64)


@pytest.mark.parametrize(
    ("single", "number", "mask", "said"),
    [
        ("<s> $A $A", 0, "<mask>", "between the special tokens that it puts around a text stands something else"),
        ("<s>", 0, "<mask>", "between the special tokens that it puts around a text stands something else"),
        ("<s> $A", 0, "<s>", "its mask is one of the special tokens that stand around every text"),
        ("$A <s>", 3_000_000_000, "<mask>", "around every text it puts the token 3,000,000,000, which its vocabulary"),
    ],
)
def test_special_tokens_around_a_text_that_cannot_be(single: str, number: int, mask: str, said: str) -> None:
    backend = roberta_tokenizer().backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single, special_tokens=[("<s>", number)])
    with pytest.raises(ValueError, match=said):
        TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, mask_token=mask), 64)
