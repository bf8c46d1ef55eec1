"""Editing a WordPiece vocabulary."""

from collections import Counter
from pathlib import Path

import torch
from training.bert_fixture import ENTRIES, write_base
from transformers import BertTokenizer

from secbatch.training.vocabulary import (
    SPECIAL_TOKENS,
    build_tokenizer,
    count_words,
    edit_vocabulary,
    edited_embeddings,
)


def test_a_frequent_split_word_becomes_an_entry_with_the_mean_of_its_pieces(tmp_path: Path) -> None:
    base = BertTokenizer.from_pretrained(write_base(tmp_path))
    assert base.tokenize("powershell") == ["power", "##shell"]
    vocabulary = edit_vocabulary(base, Counter(powershell=9, rare=1, the=50), minimum_count=4, maximum_added=5)
    tokenizer = build_tokenizer(vocabulary.entries)
    assert tokenizer.tokenize("PowerShell") == ["powershell"]
    assert "rare" not in vocabulary.entries
    assert vocabulary.added == 1
    old = torch.randn(len(ENTRIES), 4)
    new = edited_embeddings(old, vocabulary.origins)
    pieces = old[[ENTRIES.index("power"), ENTRIES.index("##shell")]]
    assert torch.allclose(new[vocabulary.entries.index("powershell")], pieces.mean(0))
    assert torch.equal(new[vocabulary.entries.index("files")], old[ENTRIES.index("files")])


def test_placeholders_and_other_scripts_go_and_special_tokens_come_first(tmp_path: Path) -> None:
    base = BertTokenizer.from_pretrained(write_base(tmp_path))
    vocabulary = edit_vocabulary(base, Counter(), minimum_count=1, maximum_added=0)
    assert vocabulary.entries[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS
    assert vocabulary.dropped == 2
    assert not {"[unused0]", "日"} & set(vocabulary.entries)
    tokenizer = build_tokenizer(vocabulary.entries)
    assert tokenizer.mask_token == "[MASK]"
    assert tokenizer.model_max_length == 512


def test_words_that_mix_letters_and_digits_must_be_more_frequent(tmp_path: Path) -> None:
    base = BertTokenizer.from_pretrained(write_base(tmp_path))
    vocabulary = edit_vocabulary(base, Counter(apt28=11, rundll32=12, lsass=4), minimum_count=4, maximum_added=9)
    assert vocabulary.entries[-vocabulary.added :] == ("rundll32", "lsass")


def test_a_word_counts_once_a_document(tmp_path: Path) -> None:
    base = BertTokenizer.from_pretrained(write_base(tmp_path))
    counts = count_words(base, [["Malware, malware!", "MALWARE"], ["malware"]])
    assert counts["malware"] == 2
