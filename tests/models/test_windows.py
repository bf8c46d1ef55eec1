"""What of a long text the model sees."""

import time

import numpy as np
import pytest
from tiny_models import bert_tokenizer, roberta_tokenizer

from secbatch.models.texts import Texts
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.windows import CHARACTERS_PER_TOKEN, around_masks, from_start

TOKENIZERS = {"roberta": TextTokenizer(roberta_tokenizer(), 32), "bert": TextTokenizer(bert_tokenizer(), 32)}
kinds = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


@kinds
def test_short_texts_are_whole(tokenizer: TextTokenizer) -> None:
    texts = ["A <mask> injection <mask>.", "<mask>"]
    seen = around_masks(texts, tokenizer)
    assert seen.mask_counts.tolist() == seen.seen.tolist() == [2, 1]
    assert not seen.truncated.any()
    assert np.array_equal(seen.sequences.ids, tokenizer.encode(texts).ids)


@kinds
@pytest.mark.parametrize(("before", "after"), [(0, 200), (200, 0), (200, 200), (40, 2), (2, 40)])
def test_the_window_goes_around_the_mask(tokenizer: TextTokenizer, before: int, after: int) -> None:
    text = "the code " * before + "server <mask> host" + " the code" * after
    seen = around_masks([text, "a <mask>"], tokenizer)
    row = seen.sequences[0]
    assert len(row) == tokenizer.max_length
    assert row[0] == tokenizer.before[0] and row[-1] == tokenizer.after[0]
    assert (row == tokenizer.mask_id).sum() == 1
    assert seen.truncated.tolist() == [True, False]
    # The window is part of the whole text's tokens, and as much of it as there is on either side.
    whole = tokenizer.encode([text])[0]
    body = row[1:-1]
    assert not np.isin(body, [*tokenizer.before, *tokenizer.after]).any()
    place = int(np.flatnonzero(whole == tokenizer.mask_id)[0]) - int(np.flatnonzero(body == tokenizer.mask_id)[0])
    if len(text) <= tokenizer.max_length * CHARACTERS_PER_TOKEN:
        assert np.array_equal(body, whole[place : place + len(body)])
    if before == after:
        assert abs(int(np.flatnonzero(row == tokenizer.mask_id)[0]) - len(row) // 2) <= 1


@kinds
def test_a_text_of_exactly_as_many_tokens_as_fit_is_whole(tokenizer: TextTokenizer) -> None:
    texts = [f"<mask>{' the' * more}" for more in range(20, 40)]
    seen = around_masks(texts, tokenizer)
    whole = tokenizer.encode(texts).lengths
    assert tokenizer.max_length in whole.tolist()
    assert seen.truncated.tolist() == (whole > tokenizer.max_length).tolist()


@kinds
def test_masks_that_fit_together_are_seen_together(tokenizer: TextTokenizer) -> None:
    text = "the code " * 100 + "<mask> in the <mask>" + " the code" * 100
    seen = around_masks([text], tokenizer)
    assert (seen.mask_counts.tolist(), seen.seen.tolist()) == ([2], [2])


@kinds
def test_masks_stand_in_the_middle_as_long_as_they_fit(tokenizer: TextTokenizer) -> None:
    """Up to one at each end of the window; one token more between them, and the first alone is in its middle."""
    size = tokenizer.max_length - 2
    for between in range(size + 3):
        text = "the " * 100 + "<mask>" + " the" * between + " <mask>" + " the" * 100
        body = around_masks([text], tokenizer).sequences[0][1:-1]
        masks = np.flatnonzero(body == tokenizer.mask_id)
        assert len(masks) == (2 if between <= size - 2 else 1)
        assert masks[0] - (size - 1 - masks[-1]) in (0, 1)


@kinds
def test_the_first_mask_is_kept_when_they_do_not_all_fit(tokenizer: TextTokenizer) -> None:
    text = "<mask> server " + "the code " * 100 + "host <mask>"
    seen = around_masks([text], tokenizer)
    assert (seen.mask_counts.tolist(), seen.seen.tolist()) == ([2], [1])
    assert seen.sequences[0][1] == tokenizer.mask_id
    crowd = around_masks(["<mask> " * 500], tokenizer)
    assert (crowd.mask_counts.tolist(), crowd.seen.tolist()) == ([500], [30])
    assert len(crowd.sequences[0]) == 32


@kinds
def test_a_huge_text_costs_no_more_than_a_long_one(tokenizer: TextTokenizer) -> None:
    filler = "the code of a server " * 1_000_000  # 21 MB
    text = filler + "host <mask> host" + filler
    started = time.process_time()
    seen = around_masks([text, f"<mask> {filler} <mask>"], tokenizer)
    assert from_start([filler], tokenizer).lengths.tolist() == [32]
    assert time.process_time() - started < 2
    assert seen.truncated.all() and seen.sequences.lengths.tolist() == [32, 32]
    assert (seen.mask_counts.tolist(), seen.seen.tolist()) == ([1, 2], [1, 1])
    # The same window as around the mask of a text that is not cut before it is tokenised.
    near = around_masks([filler[: 21 * 20] + "host <mask> host" + filler[: 21 * 20]], tokenizer)
    assert np.array_equal(near.sequences.ids, seen.sequences[0])


@kinds
def test_a_huge_text_is_not_kept_as_a_string_beside_its_column(tokenizer: TextTokenizer) -> None:
    listed = ["short <mask>", "<mask> " + "word " * 100_000, "<mask> again", "word " * 100_000 + "<mask>"]
    texts = Texts.of(listed)
    for row, text in enumerate(listed):
        assert around_masks(texts, tokenizer).sequences[row].tolist() == seen_alone(text, tokenizer)
        assert from_start(texts, tokenizer)[row].tolist() == from_start([text], tokenizer)[0].tolist()
    assert around_masks(texts, tokenizer).truncated.tolist() == [False, True, False, True]
    assert "_strings" not in vars(texts)


def seen_alone(text: str, tokenizer: TextTokenizer) -> list[int]:
    tokens: list[int] = around_masks([text], tokenizer).sequences[0].tolist()
    return tokens


def test_a_mask_is_never_cut_in_two() -> None:
    tokenizer = TOKENIZERS["roberta"]
    reach = tokenizer.max_length * CHARACTERS_PER_TOKEN
    for shift in range(-8, 9):
        text = "<mask>" + "x" * (reach + shift) + "<mask> end" + " the end" * 400
        seen = around_masks([text], tokenizer)
        assert (seen.mask_counts.tolist(), seen.seen.tolist()) == ([2], [1])
        assert seen.truncated.all()


@kinds
def test_from_start_keeps_the_beginning(tokenizer: TextTokenizer) -> None:
    text = "server " + "the code " * 100
    rows = from_start([text, "host"], tokenizer)
    assert np.array_equal(rows[0][:-1], tokenizer.encode([text])[0][:31])
    assert rows[0][-1] == tokenizer.after[0] and len(rows[0]) == 32
    assert np.array_equal(rows[1], tokenizer.encode(["host"])[0])
