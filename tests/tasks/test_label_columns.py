"""Columns of labels, against the same made row by row; and what a later row with the same text gets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secbatch.models.batch_runner import BatchReport
from secbatch.tasks.label_columns import Labelling, Scored, label_columns, label_fields, scored
from secbatch.tasks.label_names import Problem
from secbatch.tasks.repeats import Recalled, Repeats, recall_again, text_keys

LABELS = ("c", "a", "d", "b")


def expected(scores: np.ndarray | None, truncated: bool, labelling: Labelling) -> dict[str, Any]:
    """The columns of one row; of equal scores the label that the model has first."""
    if scores is None:
        several = {"t_labels": None} if labelling.problem == "multi-label" else {}
        return {"t": None, "t_score": None, **several, "t_scores": None, "t_truncated": None}
    ranked = sorted(zip(LABELS, scores.tolist(), strict=True), key=lambda one: -one[1])
    above = [name for name, score in ranked if labelling.threshold is None or score >= labelling.threshold]
    several = {"t_labels": above} if labelling.problem == "multi-label" else {}
    kept = [{"label": name, "score": score} for name, score in ranked[: labelling.kept]]
    best = ranked[0][0] if ranked[0][0] in above else None
    return {"t": best, "t_score": ranked[0][1], **several, "t_scores": kept, "t_truncated": truncated}


@pytest.mark.parametrize("problem", ["single-label", "multi-label", "regression"])
@pytest.mark.parametrize(("kept", "threshold"), [(1, None), (2, 0.5), (9, 0.25)])
def test_rows_are_as_made_one_by_one(tmp_path: Path, problem: Problem, kept: int, threshold: float | None) -> None:
    labelling = Labelling(LABELS, problem, kept, threshold)
    random = np.random.default_rng(0)
    texts = [f"text {number}" for number in range(6)]
    scores = random.integers(0, 5, (6, 4)).astype(np.float32) / 4  # with ties, and some on the threshold
    truncated = np.array([True, False, True, False, False, True])
    repeats = Repeats(tmp_path)
    rows = np.array([3, 0, -1, 5, 0, 2, 1, 4])
    first = Recalled(rows, texts, text_keys(texts), [])
    computed = Scored(first, truncated, scores, {1: "it was too much", 5: "it was too much"}, 70, 7)
    made = label_columns("t", computed, repeats, labelling)
    assert made.errors == {3: "it was too much", 6: "it was too much"} and (made.tokens, made.padding) == (70, 7)
    assert list(made.columns) == [one.name for one in label_fields("t", problem)]

    def told(columns: dict[str, Any], row: int) -> dict[str, Any]:
        return {name: column[row].as_py() for name, column in columns.items()}

    for row, text in enumerate(rows):
        nothing = text in (-1, 1, 5)
        wanted = expected(None if nothing else scores[text], bool(truncated[text]), labelling)
        assert told(made.columns, row) == wanted

    # In a later shard what could be done is known, and what could not be is computed.
    rows = np.array([1, 4, -1, 5, 2, 3, 0])
    later = recall_again(Recalled(rows, texts, text_keys(texts), []), repeats)
    assert list(later.texts) == ["text 1", "text 5"]
    fresh = random.random((2, 4), np.float32)
    again = label_columns("t", Scored(later, np.array([False, True]), fresh, {}, 1, 0), repeats, labelling)
    assert again.errors == {}
    for row, text in enumerate(rows):
        values = fresh[[1, 5].index(text)] if text in (1, 5) else None if text < 0 else scores[text]
        assert told(again.columns, row) == expected(values, bool(truncated[text]), labelling)


def test_a_text_with_a_score_that_is_no_number_is_an_error() -> None:
    """As of several labels a text, where the others may be numbers all the same."""
    scores = np.array([[0.5, 0.25], [0.5, np.nan], [np.inf, 0.5]], np.float32)
    recalled = Recalled(np.arange(3), [], np.zeros((0, 2), np.uint64), [])
    found = scored(recalled, np.zeros(3, bool), scores, BatchReport(9, 1), "m")
    assert set(found.errors) == {1, 2} and "model m gave scores that are no numbers" in found.errors[1]
    assert (found.tokens, found.padding) == (9, 1)
    assert found.recalled is recalled and found.scores is scores and not found.truncated.any()
