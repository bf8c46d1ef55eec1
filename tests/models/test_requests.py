"""Several requests become one pass: each row of each is in it once, and equal rows of different ones share a place."""

import numpy as np
import pytest

from secbatch.models.batch_runner import BatchReport
from secbatch.models.requests import own_report, united
from secbatch.models.sequences import TokenSequences

ROWS = [[5, 6, 7], [8], [5, 6, 7], [9, 9], [8]]


def with_types(rows: list[list[int]], kind: int) -> TokenSequences:
    plain = TokenSequences.of(rows)
    return TokenSequences(plain.ids, plain.offsets, np.full(len(plain.ids), kind, np.int32))


@pytest.mark.parametrize(
    ("parts", "places"),
    [
        ([TokenSequences.of(ROWS)], 5),
        ([TokenSequences.of(ROWS), TokenSequences.of(ROWS)], 5),
        ([TokenSequences.of(ROWS), TokenSequences.of(ROWS[::-1]), TokenSequences.of(ROWS)], 5),
        ([TokenSequences.of(ROWS), TokenSequences.of(ROWS[:3])], 5),
        ([TokenSequences.of(ROWS), TokenSequences.of([[1], [5, 6, 7], [5, 6, 7], [5, 6, 7]])], 7),
        ([with_types(ROWS, 0), with_types(ROWS, 0)], 5),
        ([with_types(ROWS, 0), with_types(ROWS, 1)], 10),
        ([TokenSequences.of([]), TokenSequences.of(ROWS)], 5),
    ],
)
def test_every_row_of_every_request_has_one_place(parts: list[TokenSequences], places: int) -> None:
    whole, rows_of = united(parts)
    assert len(whole) == places
    for part, rows in zip(parts, rows_of, strict=True):
        assert len(rows) == places
        mine = np.flatnonzero(rows >= 0)
        assert sorted(rows[mine].tolist()) == list(range(len(part)))
        for place in mine:
            assert whole[place].tolist() == part[rows[place]].tolist()
            if part.types is not None:
                assert whole.types_of(place).tolist() == part.types_of(rows[place]).tolist()


def test_requests_for_the_same_sequences_are_not_looked_at_row_by_row() -> None:
    parts = [TokenSequences.of(ROWS), TokenSequences.of(ROWS)]
    assert united(parts)[0] is parts[0]


def test_what_a_pass_takes_is_counted_once_and_each_request_has_its_own_errors() -> None:
    report = BatchReport(12, 3, {0: "too long", 2: "no numbers"})
    of_each = [own_report(report, np.array(own), number) for number, own in enumerate([[0, -1, 1], [-1, 0, 2]])]
    assert [one.errors for one in of_each] == [{0: "too long", 1: "no numbers"}, {2: "no numbers"}]
    assert (sum(one.tokens for one in of_each), sum(one.padding for one in of_each)) == (12, 3)
