"""A run that is stopped after it has published: what it was for is done, and what readers have seen stays."""

from pathlib import Path
from typing import Any

import pytest
from fake_task import Counter, install_in, interrupted_after
from nights import LINES, WITH_ID, done, job, rows, write

from secbatch.errors import Interrupted, OutputError
from secbatch.finished_shards import FinishedShards
from secbatch.runner import run_job
from secbatch.store import versions
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.rollback import roll_back

HEAD = "id,text,note"


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (7, 10))


def stopped_while_it_tidies_up(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """All is published and the checkpoints are forgotten; their files are on their way out."""
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("secbatch.publishing._remove", interrupted)
        run_job(job(**changes))


def interrupted(*arguments: Any) -> None:
    raise Interrupted("stop")


def at_its_end_only(shards: FinishedShards, final: bool, publish: Any = FinishedShards.publish) -> None:
    if final:
        publish(shards, final)


def first_run_stopped_after(shown: int, more: int, **changes: Any) -> None:
    """Rows of a.csv are shown, others are in checkpoints."""
    write("a.csv", HEAD, *LINES[:shown])
    write("b.csv", HEAD, *LINES[shown:])
    with interrupted_after(shown + more):
        run_job(job(**changes))
    assert len(rows()) == shown


@pytest.mark.parametrize("mode", ["incremental", "overwrite", "fail-if-exists"])
def test_what_was_published_is_not_computed_again(counter: Counter, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    write("a.csv", HEAD, *LINES)
    changes = {"output__mode": mode}
    stopped_while_it_tidies_up(monkeypatch, **changes)
    before, link = rows(), Path("out/data").readlink()
    assert len(before) == len(LINES)

    assert done(counter, **changes) == 0
    assert rows().equals(before)
    assert mode == "overwrite" or Path("out/data").readlink() == link
    assert not list(Path("out/_secbatch/checkpoints").iterdir())


def test_nor_is_what_a_later_night_published(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", HEAD, *LINES[:50])
    run_job(job())
    write("a.csv", HEAD, *LINES)
    stopped_while_it_tidies_up(monkeypatch)
    before = rows()

    assert done(counter) == 0
    assert rows().equals(before)


@pytest.mark.parametrize("columns", [{}, {"input": WITH_ID}])
def test_rows_that_readers_have_seen_stay(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any]
) -> None:
    write("a.csv", HEAD, *LINES[:50])
    run_job(job(**columns))
    write("b.csv", HEAD, *LINES[50:])
    stopped_while_it_tidies_up(monkeypatch, **columns)
    Path("in/b.csv").unlink()

    run_job(job(**columns))
    assert sorted(rows()["id"]) == sorted(str(n) for n in range(100))


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "stopped"])
@pytest.mark.parametrize("columns", [{}, {"input": WITH_ID}])
@pytest.mark.parametrize("kept", [50, 0], ids=["later night", "first run"])
def test_so_do_those_of_a_run_that_had_turned_the_link_and_written_nothing_more(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any], killed: bool, kept: int
) -> None:
    if kept:
        write("a.csv", HEAD, *LINES[:kept])
        run_job(job(**columns))
    write("b.csv", HEAD, *LINES[kept:])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("secbatch.finished_shards.FinishedShards.publish", at_its_end_only)
        patch.setattr(Ledger, "add_version", interrupted)
        if killed:
            patch.setattr(Ledger, "end_run", lambda *arguments: None)
        run_job(job(**columns))
    assert len(rows()) == 100
    Path("in/b.csv").unlink()
    write("c.csv", HEAD, "100,word 100,note")

    assert done(counter, **columns) == 1
    assert sorted(rows()["id"], key=int) == [str(n) for n in range(101)]
    assert done(counter, **columns) == 0
    assert len(rows()) == 101


def test_those_of_a_run_that_had_not_turned_the_link_were_seen_by_nobody(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.csv", HEAD, *LINES[:50])
    run_job(job(input=WITH_ID))
    write("b.csv", HEAD, *LINES[50:])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(versions, "swap_link", interrupted)
        run_job(job(input=WITH_ID))
    Path("in/b.csv").unlink()

    assert done(counter, input=WITH_ID) == 0
    assert sorted(rows()["id"], key=int) == [str(n) for n in range(50)]


def test_a_rollback_after_it_that_is_killed_comes_to_its_end(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", HEAD, *LINES[:50])
    run_job(job(input=WITH_ID))
    kept = Path("out/data").readlink().name
    write("b.csv", HEAD, *LINES[50:])
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "end_run", lambda *arguments: None)  # the run was killed
        stopped_while_it_tidies_up(monkeypatch, input=WITH_ID)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Ledger, "add_version", interrupted)
        roll_back(Layout(Path("out")), int(kept))
    Path("in/b.csv").unlink()

    run_job(job(input=WITH_ID))
    assert sorted(rows()["id"]) == sorted(str(n) for n in range(50))


@pytest.mark.parametrize("columns", [{}, {"input": WITH_ID}])
def test_what_a_first_run_has_shown_stays_when_its_file_is_gone(counter: Counter, columns: dict[str, Any]) -> None:
    first_run_stopped_after(7, 30, **columns)
    Path("in/a.csv").unlink()

    assert done(counter, **columns) <= 93 - 20  # what was finished of b.csv is not done again
    assert sorted(rows()["id"]) == sorted(str(n) for n in range(100))
    assert done(counter, **columns) == 0
    assert len(rows()) == 100


def test_each_publication_of_the_resumed_run_has_it(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    first_run_stopped_after(7, 30)
    Path("in/a.csv").unlink()
    shown, publish = [], versions.publish

    def noted(*arguments: Any, **named: Any) -> int:
        number = publish(*arguments, **named)
        shown.append({"0", "6"} <= set(rows()["id"]))
        return number

    monkeypatch.setattr("secbatch.publishing.publish", noted)
    monkeypatch.setattr("secbatch.finished_shards.PUBLISH_SECONDS", 0.0)
    run_job(job())
    assert len(shown) > 4 and all(shown)


def test_a_dataset_that_is_overwritten_is_shown_until_all_of_the_new_one_is_there(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.csv", HEAD, *LINES)
    run_job(job())
    shown, publish = [], versions.publish

    def noted(*arguments: Any, **named: Any) -> int:
        number = publish(*arguments, **named)
        shown.append(len(rows()))
        return number

    monkeypatch.setattr("secbatch.publishing.publish", noted)
    monkeypatch.setattr("secbatch.finished_shards.PUBLISH_SECONDS", 0.0)
    write("a.csv", HEAD, *(f"{n},term {n},note" for n in range(200)))
    run_job(job(output={"path": "out", "mode": "overwrite"}))
    assert shown == [200]


def test_a_row_that_was_edited_meanwhile_stands_there_once(counter: Counter) -> None:
    first_run_stopped_after(7, 30, input=WITH_ID)
    write("a.csv", HEAD, "3,another text,note", "200,a new row,note")

    run_job(job(input=WITH_ID))
    found = rows().set_index("id")
    assert found.index.is_unique and len(found) == 101
    assert found["up"]["3"] == "ANOTHER TEXT" and found["up"]["2"] == "WORD 2"


def test_rows_of_a_file_that_is_still_there_are_replaced_by_what_it_has(counter: Counter) -> None:
    first_run_stopped_after(7, 30)
    write("a.csv", HEAD, *LINES[1:7])

    run_job(job())
    assert sorted(rows()["id"]) == sorted(str(n) for n in range(1, 100))


@pytest.mark.parametrize(("removed", "statuses"), [("mark", {"ok", "removed"}), ("drop", {"ok"})])
def test_rows_that_are_gone_are_treated_as_the_job_says(counter: Counter, removed: str, statuses: set[str]) -> None:
    changes = {"output": {"path": "out", "removed": removed, "max_removed": "100%"}}
    first_run_stopped_after(7, 30, **changes)
    Path("in/a.csv").unlink()

    run_job(job(**changes))
    found = rows()
    assert set(found["secbatch_status"]) == statuses
    assert len(found) == (100 if removed == "mark" else 93)


def test_more_of_them_than_are_allowed_to_go_stop_the_run(counter: Counter) -> None:
    changes = {"input": WITH_ID, "output": {"path": "out", "removed": "drop", "max_removed": "6"}}
    first_run_stopped_after(7, 30, **changes)
    Path("in/a.csv").unlink()

    with pytest.raises(OutputError, match=r"7 of the 14 rows .* are no longer in the input"):
        run_job(job(**changes))
    assert {"0", "6"} <= set(rows()["id"])
