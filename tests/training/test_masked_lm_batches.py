"""Training batches: budget, masks, labels, shares of the sources."""

from pathlib import Path

import numpy as np
from training.bert_fixture import write_base
from transformers import BertTokenizer

from secbatch.training.masked_lm_batches import encode_documents, join_sentences, training_batches

SPECIAL = (3, 4, 5, 0)  # [CLS] [SEP] [MASK] [PAD] in the fixture's vocabulary


def encoded(folder: Path, text: str, count: int) -> list:  # type: ignore[type-arg]
    tokenizer = BertTokenizer.from_pretrained(write_base(folder))
    return encode_documents(tokenizer, [[text, text]] * count)


def test_words_start_where_the_tokenizer_starts_them(tmp_path: Path) -> None:
    (sentences,) = encoded(tmp_path, "Attackers use powershell.", 1)
    assert sentences[0].starts.tolist() == [0, 1, 2, 4]
    joined = join_sentences(sentences)
    assert joined.starts.tolist() == [0, 1, 2, 4, 5, 6, 7, 9]
    assert len(joined.ids) == 10


def test_batches_keep_the_budget_and_labels_hold_what_the_masks_hide(tmp_path: Path) -> None:
    documents = encoded(tmp_path, "attackers use powershell to steal the data from disk", 20)
    originals = {tuple(joined) for joined in ([*s.ids] for d in documents for s in d)}
    batches = training_batches({"a": documents}, {"a": 1.0}, 64, SPECIAL, seed=1)
    for _ in range(20):
        batch = next(batches)
        assert batch.ids.size <= 64
        flat = batch.ids.reshape(-1).copy()
        assert (flat[batch.positions] == SPECIAL[2]).all()
        assert (flat == SPECIAL[2]).sum() == len(batch.positions) > 0
        flat[batch.positions] = batch.labels
        for row, mask in zip(flat.reshape(batch.ids.shape), batch.attention, strict=True):
            tokens = row[: mask.sum()]
            assert (tokens[0], tokens[-1]) == SPECIAL[:2]
            inner = tokens[1:-1]
            length = len(next(iter(originals)))
            assert len(inner) % length == 0
            assert all(tuple(part) in originals for part in np.split(inner, len(inner) // length))


def test_sources_get_their_shares_in_tokens(tmp_path: Path) -> None:
    short = encoded(tmp_path, "steal the data", 9)
    long = encode_documents(BertTokenizer.from_pretrained(tmp_path), [["tool " * 40]] * 9)
    batches = training_batches({"short": short, "long": long}, {"short": 0.75, "long": 0.25}, 512, SPECIAL, seed=2)
    tool = long[0][0].ids[0]
    seen = masked = 0
    for _ in range(400):
        batch = next(batches)
        restored = batch.ids.reshape(-1).copy()
        restored[batch.positions] = batch.labels
        seen += (restored == tool).sum()
        masked += batch.tokens - 2 * len(batch.ids)
    assert 0.2 < seen / masked < 0.3
