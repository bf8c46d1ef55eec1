"""Flat token arrays."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secbatch.models.sequences import TokenSequences, spans

rows_of_ids = st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=12)


@given(rows_of_ids, st.data())
def test_select_gives_the_rows_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    sequences = TokenSequences.of(rows)
    assert [sequences[n].tolist() for n in range(len(sequences))] == rows
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
    picked = sequences.select(np.array(chosen, np.int64))
    assert [picked[n].tolist() for n in range(len(picked))] == [rows[n] for n in chosen]


@given(rows_of_ids)
def test_padded_keeps_every_token_and_marks_it(rows: list[list[int]]) -> None:
    ids, real = TokenSequences.of(rows).padded(pad_id=7)
    assert [line[mask == 1].tolist() for line, mask in zip(ids, real, strict=True)] == rows
    assert (ids[real == 0] == 7).all()


def test_groups_are_runs_of_one_length() -> None:
    assert TokenSequences.of([[1, 1, 1], [2, 2], [3, 3], [4]]).groups() == [(0, 1, 3), (3, 2, 2), (7, 1, 1)]
    assert TokenSequences.of([]).groups() == []


def test_spans() -> None:
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_lists_made_one_by_one_and_parts_give_the_same_as_of() -> None:
    rows = [[5, 1], [], [2**31 - 1], [7, 8, 9], []]
    wanted = TokenSequences.of(rows)
    for got in (
        TokenSequences.of_lists(iter(rows)),
        TokenSequences.joined(
            [TokenSequences.of_lists(rows[:2]), TokenSequences.of_lists([]), TokenSequences.of(rows[2:])]
        ),
    ):
        assert got.ids.dtype == wanted.ids.dtype and got.offsets.dtype == wanted.offsets.dtype
        assert got.ids.tolist() == wanted.ids.tolist() and got.offsets.tolist() == wanted.offsets.tolist()
    assert TokenSequences.of_lists([]).offsets.tolist() == [0]


def test_select_takes_rows_in_any_order() -> None:
    sequences = TokenSequences.of([[1, 2], [], [3], [4, 5, 6]])
    chosen = sequences.select(np.array([3, 0, 1, 0]))
    assert [chosen[row].tolist() for row in range(4)] == [[4, 5, 6], [1, 2], [], [1, 2]]
    assert len(sequences.select(np.zeros(0, np.int64))) == 0
