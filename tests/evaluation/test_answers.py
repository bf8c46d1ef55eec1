import math

import pytest

from secbatch.evaluation.answers import answer_figures, exact_match, normalised, word_f1


def test_normalisation_is_squads() -> None:
    assert normalised("  The Lazarus-Group's  a an the  malware. ") == "lazarusgroups malware"
    assert normalised("theory") == "theory"
    assert exact_match("the Wanna-Cry worm!", ["wannacry worm"])


def test_f1_by_hand() -> None:
    assert word_f1("the Emotet banking trojan", ["Emotet trojan"]) == pytest.approx(2 * 2 / 5)
    assert word_f1("Emotet", ["QakBot", "Emotet loader"]) == pytest.approx(2 / 3)
    assert word_f1("Emotet Emotet", ["Emotet"]) == pytest.approx(2 / 3)
    assert word_f1("", ["Emotet"]) == 0.0
    assert word_f1("Emotet", []) == 0.0 and word_f1("", []) == 1.0


def test_figures_by_hand() -> None:
    figures = answer_figures(["Emotet", "a TrickBot", None, "something"], [["Emotet"], ["TrickBot loader"], [], []])
    assert (figures.exact, figures.f1) == (pytest.approx(2 / 4), pytest.approx((1 + 2 / 3 + 1 + 0) / 4))
    assert (figures.answerable_exact, figures.answerable_f1) == (0.5, pytest.approx((1 + 2 / 3) / 2))
    assert figures.unanswerable == 0.5
    assert math.isnan(answer_figures(["x"], [["x"]]).unanswerable)


def test_a_reference_of_which_nothing_is_left_makes_no_answer_right_only_alone() -> None:
    wanted = ["A", "vitamin A"]
    figures = answer_figures([None, "the A.", "vitamin"], [wanted] * 3)
    assert (figures.answerable_exact, figures.answerable_f1) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    alone = answer_figures([None, "B"], [["A"], ["A"]])  # as the script counts it, too
    assert alone.answerable_exact == 0.5 and math.isnan(alone.unanswerable)
