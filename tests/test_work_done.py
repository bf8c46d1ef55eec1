"""What is told of work that is done, and who hears it."""

import threading

import pytest

from secbatch.work_done import WorkDone, part_in_hand, work_in_hand


def test_parts_count_by_their_weight_and_are_whole_at_their_end() -> None:
    work = WorkDone()
    with work.in_hand():
        with part_in_hand(0.25):
            work_in_hand().reached(0.5)
            assert work.share == 0.125
        assert work.share == 0.25
        with part_in_hand(0.75):
            with part_in_hand(0.5):
                pass
            assert work.share == pytest.approx(0.625)
        assert work.share == 1.0


def test_parts_that_go_on_side_by_side_add_up() -> None:
    work = WorkDone()
    far, near = work.part(0.5), work.part(0.5)
    far.reached(0.8)
    near.reached(0.2)
    assert work.share == pytest.approx(0.5)
    near.reached(0.1)  # some of it has to be done again
    assert work.share == pytest.approx(0.45)


def test_what_is_told_where_nobody_watches_reaches_no_other_work() -> None:
    work, heard = WorkDone(), []
    with work.in_hand():
        thread = threading.Thread(target=lambda: heard.append(work_in_hand() is work))
        thread.start()
        thread.join()
    work_in_hand().reached(0.5)
    assert work.share == 0 and heard == [False]


def test_what_a_part_waits_for_is_seen_from_the_whole_while_it_waits() -> None:
    work = WorkDone()
    with work.part(0.5).waiting("No memory."):
        assert work.held_up == "No memory."
    assert work.held_up is None
