import random

import pytest
from nervaluate.evaluator import Evaluator

from secbatch.evaluation.spans import SPANS, Span, lenient_f1, span_figures, span_tally


def test_strict_by_hand() -> None:
    true = [[(0, 5, "Malware"), (10, 12, "System")], [(3, 9, "Malware")], []]
    predicted = [[(0, 5, "Malware"), (10, 13, "System")], [(3, 9, "Organization")], [(0, 1, "Malware")]]
    figures = span_figures(true, predicted)
    # one hit; predicted four, of which three are wrong; three in the data, of which two are not found
    assert (figures.precision, figures.recall) == (pytest.approx(1 / 4), pytest.approx(1 / 3))
    assert figures.f1 == pytest.approx(2 / 7)
    by_label = {one.label: one for one in figures.by_label}
    assert by_label["Malware"].f1 == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert by_label["Malware"].support == 2
    assert by_label["System"].f1 == 0.0 and by_label["Organization"].support == 0
    assert figures.f1_macro == pytest.approx(0.5 / 3)
    lenient = lenient_f1(true, predicted, ["Malware", "Organization", "System"])
    assert lenient["exact"] == pytest.approx(2 * 2 / 7)  # the wrong label has both ends right
    assert lenient["type"] == pytest.approx(2 * 2 / 7)  # the wrong end has the label right
    assert lenient["partial"] == pytest.approx(2 * 2.5 / 7)


def test_neighbours_do_not_overlap() -> None:
    """An end is exclusive: a span that ends where the next begins takes nothing of it."""
    true: list[list[Span]] = [[(0, 3, "A"), (3, 6, "A")]]
    predicted: list[list[Span]] = [[(0, 2, "A"), (3, 6, "A")]]
    figures = span_figures(true, predicted)
    assert (figures.precision, figures.recall) == (0.5, 0.5)
    assert lenient_f1(true, predicted, ["A"])["partial"] == pytest.approx(0.75)


def test_a_span_predicted_twice_counts_once() -> None:
    assert span_figures([[(0, 3, "A")]], [[(0, 3, "A"), (0, 3, "A")]]).f1 == 1.0


def test_nothing_to_find_and_nothing_found() -> None:
    figures = span_figures([[], []], [[], []])
    assert (figures.f1, figures.by_label, lenient_f1([[], []], [[], []], [])["exact"]) == (0.0, (), 0.0)


def _spans(generator: random.Random) -> list[Span]:
    spans, place = [], 0
    while (place := place + generator.randrange(4)) < 20:
        end = place + 1 + generator.randrange(3)
        spans.append((place, end, generator.choice("ABC")))
        place = end
    return spans


def test_strict_is_nervaluates() -> None:
    generator = random.Random(1)
    true = [_spans(generator) for _ in range(60)]
    predicted = [row if generator.random() < 0.5 else _spans(generator) for row in true]
    entities = [
        [[{"label": label, "start": start, "end": end - 1} for start, end, label in row] for row in part]
        for part in (true, predicted)
    ]
    result = Evaluator(*entities, tags=["A", "B", "C"], loader="dict").evaluate()
    figures = span_figures(true, predicted)
    wanted = result["overall"]["strict"]
    assert (figures.precision, figures.recall, figures.f1) == pytest.approx(
        (wanted.precision, wanted.recall, wanted.f1)
    )
    assert {one.label: one.f1 for one in figures.by_label} == pytest.approx(
        {label: result["entities"][label]["strict"].f1 for label in "ABC"}
    )
    total = span_tally(true, predicted, ["A", "B", "C"]).total()
    assert SPANS["f1"](total) == pytest.approx(wanted.f1)
    assert SPANS["precision"](total) == pytest.approx(wanted.precision)
    assert SPANS["recall"](total) == pytest.approx(wanted.recall)
