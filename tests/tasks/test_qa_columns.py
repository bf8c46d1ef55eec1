"""Columns of answers, and answers that are remembered as bytes."""

from dataclasses import fields

import numpy as np
import pytest

from secbatch.tasks.qa_columns import answer_columns, packed_answers, with_known_answers
from secbatch.tasks.qa_spans import Answers

CONTEXTS = ["Emotet drops TrickBot", "", "Ryuk", "nmap ran twice"]
ANSWERS = Answers(
    np.array([2, 0, 1, 2]),
    np.array([0, 13, 0, 0, 9], np.int32),
    np.array([6, 21, 4, 4, 14], np.int32),
    np.array([0.5, 0.25, 0.125, 0.75, 0.0625], np.float32),
    np.array([0.375, 0.875, 0.625, 0.03125], np.float32),
    np.array([True, False, False, True]),  # of "Ryuk" there is a span, and no answer
)


@pytest.mark.parametrize("several", [False, True])
def test_rows_have_the_best_span_or_the_score_of_no_answer(several: bool) -> None:
    columns = answer_columns("a", np.array([3, -1, 0, 2, 1, 0]), ANSWERS, CONTEXTS, several)
    told = {name: column.to_pylist() for name, column in columns.items()}
    spans = told.pop("a_spans", None)
    assert told == {
        "a": ["nmap", None, "Emotet", None, None, "Emotet"],
        "a_score": [0.75, None, 0.5, 0.625, 0.875, 0.5],
        "a_start": [0, None, 0, None, None, 0],
        "a_end": [4, None, 6, None, None, 6],
    }
    if several:
        assert [row and [(one["text"], one["score"], one["start"], one["end"]) for one in row] for row in spans] == [
            [("nmap", 0.75, 0, 4), ("twice", 0.0625, 9, 14)],
            None,
            *(first := [[("Emotet", 0.5, 0, 6), ("TrickBot", 0.25, 13, 21)]]),
            [("Ryuk", 0.125, 0, 4)],
            [],
            *first,
        ]


def test_what_is_remembered_comes_back_behind_what_is_new() -> None:
    which = np.array([True, True, False, True])
    values, lengths = packed_answers(ANSWERS, which)
    assert len(values) == lengths.sum()
    ends = np.cumsum(lengths)
    known = [values[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True)]
    both = with_known_answers(ANSWERS, known)
    of_spans = np.repeat(which, ANSWERS.counts)
    for one in fields(Answers):
        new = getattr(ANSWERS, one.name)
        assert np.array_equal(getattr(both, one.name), np.concatenate([new, new[of_spans if len(new) > 4 else which]]))
        assert getattr(both, one.name).dtype == new.dtype
