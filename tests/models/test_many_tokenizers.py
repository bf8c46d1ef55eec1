"""Words looked up have the tokens of the whole text, whatever the tokenizer: many random ones, and nasty texts."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from tiny_models import SENTENCES
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from secbatch.models import word_tokens
from secbatch.models.tokenizer import FEW, TextTokenizer

CORPUS = [
    *SENTENCES,
    "İstanbul ΑΣ ΟΔΟΣ σς",
    "ﬁ ﷺ ㎏ ½ ´ ¨",
    "中文 漢字 テスト ｶﾞ",
    "a  b   c",
    "é ü 😀",
    "don't we'll 123 0x1f",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# fmt: off
ADDED = [
    "tok", "x", "a", " x", "  ", "x y", "é b", "a´b", "a中b", "\u00a0x", "´x", "<<", "> ", "s", "中", "e\u0301", "ﬁ",
    "Σ", "at", "\n", "\t\t", "1", "A", "İ b", "a\tb", "</s", "d>", "¨x", "½ y",
]
PIECES = [
    *ADDED, *SPECIAL, *" ".join(CORPUS).split(), " ", "  ", "    ", "\t", "\n", "\r\n", "x" * 101, "~ ", "! ",
    "👩\u200d👩\u200d👧", "\U0010ffff", "＜mask＞", "…", "‗", "\u00a0", "\u2003", "\u200b", "\u200d", "\x85", "\x00",
    "\u3000", "\u0345", "한", "'s", "'S", "e b", "a \u0301b", "a 中 b",
]
# fmt: on


def normalizer(chance: random.Random) -> normalizers.Normalizer:
    def flag() -> bool:
        return chance.random() < 0.5

    makers: list[Callable[[], normalizers.Normalizer]] = [
        normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD, normalizers.Lowercase,
        normalizers.StripAccents, lambda: normalizers.BertNormalizer(flag(), flag(), flag(), flag()),
    ]  # fmt: skip
    return normalizers.Sequence([chance.choice(makers)() for _ in range(chance.randint(0, 3))])


def tokenizer(chance: random.Random) -> TextTokenizer:
    byte_level = chance.random() < 0.6
    trainer: trainers.Trainer
    if chance.random() < 0.6:
        prefix, suffix = chance.choice([None, "##"]), chance.choice([None, "</w>"])
        affixes = {
            key: value
            for key, value in (("continuing_subword_prefix", prefix), ("end_of_word_suffix", suffix))
            if value
        }
        unknown = chance.choice([None, "<unk>"])
        backend = Tokenizer(
            models.BPE(
                unk_token=unknown, fuse_unk=chance.random() < 0.5, ignore_merges=chance.random() < 0.3, **affixes
            )
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
        trainer = trainers.BpeTrainer(
            vocab_size=500, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet, **affixes
        )
    else:
        backend = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=chance.choice([3, 100])))
        trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    backend.normalizer = normalizer(chance)
    backend.pre_tokenizer = (
        pre_tokenizers.ByteLevel(chance.random() < 0.5) if byte_level else pre_tokenizers.BertPreTokenizer()
    )
    backend.train_from_iterator(CORPUS, trainer)
    for content in chance.sample(ADDED, chance.choice([0, 1, 4])):
        flags = [chance.random() < share for share in (0.3, 0.1, 0.3, 0.5, 0.3)]
        names = ("lstrip", "rstrip", "single_word", "normalized", "special")
        backend.add_tokens([AddedToken(content, **dict(zip(names, flags, strict=True)))])
    backend.add_special_tokens([AddedToken("<mask>", lstrip=chance.random() < 0.5)])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>"), 64)


def text(chance: random.Random) -> str:
    return chance.choice(["", " ", " "]).join(chance.choice(PIECES) for _ in range(chance.choice([0, 1, 3, 12])))


@pytest.mark.soak
def test_many_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tokens, "NEW_SHARE", 0)
    chance, looked_up = random.Random(3), 0
    while looked_up < 100:
        made = tokenizer(chance)
        if made._by_word is None:
            continue
        looked_up += 1
        texts = [text(chance) for _ in range(1000)]
        found, pieces = made.encode(texts), range(0, len(texts), FEW // 2)
        wanted = [row.tolist() for at in pieces for row in rows(made, texts[at : at + FEW // 2])]
        for place, row in enumerate(wanted):
            assert found[place].tolist() == row, (texts[place], made._backend.to_str())


def rows(made: TextTokenizer, few: list[str]) -> list[np.ndarray]:
    """Too few to be cut into words."""
    encoded = made.encode(few)
    return [encoded[row] for row in range(len(few))]
