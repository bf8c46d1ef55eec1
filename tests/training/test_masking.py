"""Which words are masked."""

import numpy as np

from secbatch.training.masking import EncodedSentence, choose_masked, entry_weights, is_content_word


def sentence(weights: list[float], pieces: int = 1) -> EncodedSentence:
    words = len(weights)
    return EncodedSentence(
        np.arange(words * pieces, dtype=np.int32),
        np.arange(0, words * pieces, pieces, dtype=np.int32),
        np.array(weights, dtype=np.float32),
    )


def test_content_words_are_alphabetic_four_letters_or_more_and_no_function_words() -> None:
    assert is_content_word("Malware")
    assert not any(map(is_content_word, ("dll", "which", "T1059", "##ware")))


def test_content_entries_weigh_more_than_function_words_and_those_more_than_the_rest() -> None:
    content, function, other = entry_weights(["malware", "with", "##ware"])
    assert content > function > other > 0


def test_all_pieces_of_a_chosen_word_are_masked_together() -> None:
    chosen = choose_masked(sentence([1.0] * 6, pieces=3), 0.5, np.random.default_rng(0))
    assert chosen.sum() == 9
    assert all(set(word) in ({True}, {False}) for word in chosen.reshape(6, 3).tolist())


def test_at_least_one_word_is_masked_and_heavier_words_more_often() -> None:
    random = np.random.default_rng(1)
    hits = sum(choose_masked(sentence([1.0, 0.1, 0.1, 0.1]), 0.01, random).astype(int) for _ in range(2_000))
    assert hits.sum() == 2_000
    assert 0.7 < hits[0] / 2_000 < 0.84
