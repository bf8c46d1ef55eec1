"""The chat tokenizer: special tokens, turn marks, the chat template, cutting from the left."""

import pytest
from transformers import AutoTokenizer

from secbatch.training.chat_tokenizer import SPECIAL_TOKENS, train_tokenizer
from secbatch.training.dialogue import conversation

TURNS = ("What is DDoS", "A DDoS attack floods a server.", "How can we prevent it?")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([*TURNS, "Use a firewall."] * 5, vocabulary_size=400, positions=128).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_special_tokens_are_the_first_four_and_the_only_ones(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == list(SPECIAL_TOKENS)
    assert set(tokenizer.get_added_vocab()) == set(SPECIAL_TOKENS)
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


def test_text_ends_with_the_end_token_and_comes_back(tokenizer):
    ids = tokenizer(conversation(TURNS))["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == " " + conversation(TURNS)
    assert tokenizer.decode(tokenizer("naïve 文字 🙂")["input_ids"], skip_special_tokens=True) == " naïve 文字 🙂"


def test_runs_of_spaces_are_one_turn_mark_and_line_breaks_are_none(tokenizer):
    assert tokenizer("a    b")["input_ids"] == tokenizer("a  b")["input_ids"] != tokenizer("a b")["input_ids"]
    assert tokenizer("a\nb")["input_ids"] == tokenizer("a b")["input_ids"] == tokenizer(" a b ")["input_ids"]


def test_chat_template_gives_the_conversation_format(tokenizer):
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": " " + turn} for role, turn in zip(roles, TURNS, strict=True)]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == conversation(TURNS) + "</s>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer(conversation(TURNS))["input_ids"]


def test_long_input_is_cut_from_the_left(tokenizer):
    ids = tokenizer("word " * 300 + "How can we prevent it?", truncation=True)["input_ids"]
    assert len(ids) == 128
    assert tokenizer.decode(ids, skip_special_tokens=True).endswith(" How can we prevent it?")
