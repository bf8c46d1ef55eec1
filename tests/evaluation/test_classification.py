import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from secbatch.evaluation.bootstrap import Resampling
from secbatch.evaluation.classification import (
    CLASSIFICATION,
    classification_tally,
    multi_label_figures,
    occurring,
    single_label_figures,
)


def test_single_label_by_hand() -> None:
    figures = single_label_figures(["a", "a", "b", "c"], ["a", "b", "b", None])
    assert figures.accuracy == 0.5
    # a: 1 of 1 predicted, 1 of 2 found; b: 1 of 2, 1 of 1; c: never predicted
    assert [(one.label, one.precision, one.recall, one.support) for one in figures.by_label] == [
        ("a", 1.0, 0.5, 2),
        ("b", 0.5, 1.0, 1),
        ("c", 0.0, 0.0, 1),
    ]
    assert figures.f1_micro == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert figures.f1_macro == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert figures.f1_weighted == pytest.approx((2 * 2 / 3 + 2 / 3 + 0) / 4)
    assert figures.confusion is not None
    assert figures.confusion.tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]


def test_multi_label_by_hand() -> None:
    figures = multi_label_figures([{"a", "b"}, set(), {"b"}], [{"a"}, set(), {"a", "b"}])
    assert figures.accuracy == pytest.approx(1 / 3)
    assert figures.f1_micro == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert figures.f1_macro == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert multi_label_figures([set()], [set()]).accuracy == 1.0


def test_multi_label_with_one_label_is_about_that_label() -> None:
    figures = multi_label_figures([{"a"}, {"a"}, set(), set(), set()], [{"a"}, set(), set(), set(), set()])
    (one,) = figures.by_label
    assert (one.precision, one.recall, one.support) == (1.0, 0.5, 2)
    assert (figures.accuracy, figures.f1_micro) == (0.8, pytest.approx(2 / 3))


def test_figures_of_counts_are_scikit_learns() -> None:
    generator = np.random.default_rng(3)
    for size in (2, 7):
        names = [f"label {number}" for number in range(size)]
        true = generator.choice(names, 200).tolist()
        guesses = np.where(generator.random(200) < 0.6, true, generator.choice(names[1:], 200)).tolist()
        labels = occurring([(label,) for label in true], [(label,) for label in guesses])
        total = classification_tally([(x,) for x in true], [(x,) for x in guesses], labels).total()
        assert CLASSIFICATION["accuracy"](total) == pytest.approx(accuracy_score(true, guesses))
        for average in ("micro", "macro", "weighted"):
            wanted = f1_score(true, guesses, average=average, zero_division=0)
            assert CLASSIFICATION[f"f1_{average}"](total) == pytest.approx(wanted)


def test_figures_of_multi_label_counts_are_scikit_learns() -> None:
    generator = np.random.default_rng(5)
    right, guessed = generator.random((2, 100, 4)) < 0.3
    names = np.array(["a", "b", "c", "d"])
    true, guesses = ([set(names[row].tolist()) for row in part] for part in (right, guessed))
    total = classification_tally(true, guesses, names.tolist()).total()
    binary = MultiLabelBinarizer(classes=names.tolist())
    one, other = binarizer_pair = binary.fit_transform(true), binary.fit_transform(guesses)
    assert CLASSIFICATION["accuracy"](total) == pytest.approx(accuracy_score(*binarizer_pair))
    for average in ("micro", "macro", "weighted"):
        assert CLASSIFICATION[f"f1_{average}"](total) == pytest.approx(f1_score(one, other, average=average))


def test_thousands_of_labels_take_little_memory() -> None:
    """Tables of rows by labels, or of labels by labels, would be nothing but zeros: 100 MB and more each."""
    generator = np.random.default_rng(1)
    names = [f"label {number:04}" for number in range(3000)]
    true, guesses = generator.choice(names, (2, 6000)).tolist()
    sets, guessed = [(x,) for x in true], [(x, names[0]) for x in guesses]
    tracemalloc.start()
    try:
        single = single_label_figures(true, guesses)
        multi_label_figures(sets, guessed)
        tally = classification_tally(sets, guessed, names)
        for groups in (None, range(6000)):
            Resampling(6000, groups, samples=50).totals(tally)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 90e6
    assert single.confusion is not None and single.confusion[:, 2].sum() == 6000
    assert CLASSIFICATION["f1_macro"](classification_tally(sets, [(x,) for x in guesses], names).total()) == (
        pytest.approx(single.f1_macro)
    )


def test_a_label_of_megabytes_takes_no_more_for_each_row() -> None:
    """As a quote that is never closed makes one: numpy would give each row as much."""
    long = "a" * 1_000_000
    tracemalloc.start()
    try:
        figures = single_label_figures(["b"] * 200 + [long], ["b"] * 201)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20e6
    assert [one.support for one in figures.by_label] == [1, 200]


def test_labels_that_differ_by_a_nul_at_their_end_are_different() -> None:
    figures = single_label_figures(["a", "a\0", "b"], ["a\0", "a\0", "b"])
    assert figures.accuracy == pytest.approx(2 / 3)
    assert [one.support for one in figures.by_label] == [1, 1, 1]


def test_no_warnings_reach_a_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single_label_figures(["a"], ["b"])
        single_label_figures(["a"], [None])
        multi_label_figures([{"a"}], [set()])
