"""Figures of the chat model: token F1 and shares."""

import pytest

from secbatch.training.chat_evaluation import measure, token_f1
from secbatch.training.dialogue import UNKNOWN_TERM, Dialogue


def test_token_f1_ignores_case_and_punctuation_and_counts_repeats():
    assert token_f1("Use a firewall.", "use A firewall") == 1.0
    assert token_f1("a b", "a c") == pytest.approx(0.5)
    assert token_f1("a a a", "a") == pytest.approx(0.5)
    assert token_f1("", "a") == 0.0
    assert token_f1("", "") == 1.0


def test_measure_counts_exact_good_and_refused_answers():
    dialogues = [Dialogue(("q",), "one two three four five", "single")] * 4
    answers = ["one two three four five", "one two three four six five", "nothing of it", UNKNOWN_TERM]
    figures = measure(dialogues, answers)
    assert (figures.questions, figures.exact, figures.good, figures.refused) == (4, 0.25, 0.5, 0.25)
