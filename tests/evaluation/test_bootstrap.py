import time

import numpy as np
import pytest

from secbatch.evaluation.bootstrap import Interval, Resampling
from secbatch.evaluation.classification import CLASSIFICATION, classification_tally
from secbatch.evaluation.masked_words import masked_word_metrics, masked_word_tally
from secbatch.evaluation.perplexity import PERPLEXITY, loss_tally
from secbatch.evaluation.tally import Figure, Tally


def _interval(resampling: Resampling, figure: Figure, tally: Tally) -> Interval:
    return resampling.intervals({"one": figure}, tally)["one"]


def _right(flags: np.ndarray) -> Tally:
    sets = [[("a",) if flag else ("b",)] for flag in flags]
    return classification_tally([("a",)] * len(flags), [one for (one,) in sets], ["a", "b"])


ACCURACY = CLASSIFICATION["accuracy"]


def test_an_interval_of_a_share_is_the_textbooks() -> None:
    flags = np.arange(400) < 300
    interval = _interval(Resampling(400, samples=4000), ACCURACY, _right(flags))
    error = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert interval.value == 0.75
    assert interval.low == pytest.approx(0.75 - error, abs=0.006)
    assert interval.high == pytest.approx(0.75 + error, abs=0.006)


def test_draws_are_a_plain_bootstraps() -> None:
    """Against one resample after another, drawn from the same stream, with the rows' counts summed by hand."""
    generator = np.random.default_rng(8)
    losses, tokens = generator.random(30), generator.integers(1, 9, 30)
    tally = loss_tally(losses, tokens)
    totals = Resampling(30, samples=50, seed=4).totals(tally)
    drawn = np.random.default_rng(4).integers(0, 30, (50, 30))
    assert np.allclose(totals, np.stack([losses[drawn].sum(1), tokens[drawn].sum(1), tokens[drawn].sum(1)], axis=1))
    assert len(PERPLEXITY["perplexity"](totals)) == 50


def test_groups_are_drawn_whole() -> None:
    groups = ["x", "y", "x", "z"]
    totals = Resampling(4, groups, samples=200).totals(loss_tally([1, 10, 100, 1000], [1, 1, 1, 1]))
    one, two, three = 101, 10, 1000
    possible = {a * one + b * two + c * three for a in range(4) for b in range(4) for c in range(4) if a + b + c == 3}
    assert set(totals[:, 0]) <= possible
    assert len(set(totals[:, 0])) > 5


def test_rows_that_add_the_same_count_each_in_their_group() -> None:
    flags = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)
    groups = ["x", "x", "x", "y", "y", "z", "z", "z"]
    totals = Resampling(8, groups, samples=50, seed=2).totals(_right(flags))
    drawn = np.random.default_rng(2).integers(0, 3, (50, 3))
    rows, right = np.array([3, 2, 3])[drawn].sum(1), np.array([2, 1, 1])[drawn].sum(1)
    assert np.array_equal(totals[:, :2], np.stack([rows, right], axis=1))


def test_draws_are_the_same_however_many_fit_into_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = loss_tally(np.arange(30.0), np.ones(30))
    whole = Resampling(30, samples=50, seed=4).totals(tally)
    monkeypatch.setattr("secbatch.evaluation.bootstrap._DRAWN_AT_ONCE", 30 * 7)
    assert np.array_equal(Resampling(30, samples=50, seed=4).totals(tally), whole)


def test_an_interval_is_the_middle_of_the_draws() -> None:
    tally = loss_tally(np.arange(30.0), np.ones(30))
    resampling = Resampling(30)
    drawn = PERPLEXITY["loss"](resampling.totals(tally))
    found = _interval(resampling, PERPLEXITY["loss"], tally)
    assert len(drawn) == 1000
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)


def test_rows_of_one_document_say_less_than_as_many_alone() -> None:
    flags = np.repeat(np.arange(20) % 2 == 0, 20)
    alone = _interval(Resampling(400), ACCURACY, _right(flags))
    together = _interval(Resampling(400, np.repeat(np.arange(20), 20).tolist()), ACCURACY, _right(flags))
    assert alone.high is not None and alone.low is not None
    assert together.high is not None and together.low is not None
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_two_models_are_compared_on_the_same_draws() -> None:
    ranks: list[int | None] = [1, None, 2, 7] * 50
    better: list[int | None] = [1, 3, 2, 7] * 50
    mrr = masked_word_metrics()["mrr"]
    resampling = Resampling(200)
    same = resampling.differences({"mrr": mrr}, masked_word_tally(ranks), masked_word_tally(ranks))["mrr"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    gain = resampling.differences({"mrr": mrr}, masked_word_tally(ranks), masked_word_tally(better))["mrr"]
    assert gain.value == pytest.approx(1 / 12)
    assert gain.low is not None and gain.high is not None and 0 < gain.low < gain.value < gain.high


def test_what_cannot_be_known_is_none() -> None:
    one_document = _interval(Resampling(4, ["x"] * 4), ACCURACY, _right(np.array([True, True, False, True])))
    assert one_document == Interval(0.75, None, None)
    nothing = _interval(Resampling(2), PERPLEXITY["loss"], loss_tally([0, 0], [0, 0]))
    assert nothing == Interval(None)


def test_a_thousand_draws_of_a_large_set_take_moments() -> None:
    generator = np.random.default_rng(0)
    names = [f"T{number}" for number in range(50)]
    true, guesses = generator.choice(names, (2, 5000)).tolist()
    tally = classification_tally([(x,) for x in true], [(x,) for x in guesses], names)
    begin = time.perf_counter()
    _interval(Resampling(5000, samples=1000), CLASSIFICATION["f1_macro"], tally)
    assert time.perf_counter() - begin < 5
