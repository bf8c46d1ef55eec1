"""Row by row: what is done is never done again, whatever else of the input changes."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_task import Counter, DrawnTask, install_in, interrupted_after
from mapped_memory import needs_smaps, resident
from nights import LINES, WITH_ID, done, job, rows, write

from secbatch.errors import OutputError
from secbatch.publishing import Publisher
from secbatch.run_options import RunOptions
from secbatch.runner import RunResult, run_job
from secbatch.store.assemble import Assembled, Assembly
from secbatch.store.filesystem import link_durably
from secbatch.store.layout import Layout
from secbatch.store.merge import Merger
from secbatch.store.rollback import list_versions
from secbatch.store.versions import KEPT_VERSIONS


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (7, 10))


def test_a_row_at_the_head_of_a_file_costs_one_row(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    assert done(counter, input=WITH_ID) == 100
    first = rows()["secbatch_run"][0]
    write("a.csv", "id,text,note", "new,first word,", *LINES)
    assert done(counter, input=WITH_ID) == 1
    found = rows().set_index("id")
    assert found.index.is_unique and len(found) == 101
    assert found["up"].to_dict() == {"new": "FIRST WORD"} | {str(n): f"WORD {n}" for n in range(100)}
    assert found["secbatch_row"].to_dict() == {"new": 1} | {str(n): n + 2 for n in range(100)}
    assert (found["secbatch_run"] == first).sum() == 100


def test_a_row_at_the_head_costs_one_row_without_ids_too(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES, *LINES[:5])
    assert done(counter) == 105
    write("a.csv", "id,text,note", "new,first word,", *LINES, *LINES[:5])
    assert done(counter) == 1
    assert len(rows()) == 106 and rows()["secbatch_id"].is_unique
    assert sorted(rows()["secbatch_row"]) == list(range(1, 107))


@pytest.mark.parametrize("names", [["id"], []])
def test_a_column_that_no_task_reads_costs_nothing(counter: Counter, names: list[str]) -> None:
    spec = {"path": "in/*.csv", "id": names}
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=spec)
    write("a.csv", "id,text,note", *(line.replace("note", "remark") for line in LINES))
    assert done(counter, input=spec) == 0
    found = rows()
    assert sorted(found["note"]) == sorted(f"remark {n}" for n in range(100)) and len(found) == 100
    assert (found["up"] == found["text"].str.upper()).all()


def test_what_is_drawn_by_chance_is_each_row_s_own(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of equal rows came first, and whatever stood there in between: as if all came in one night."""
    monkeypatch.setattr("secbatch.worker.build_task", lambda name, spec, *rest: DrawnTask(name, spec, counter))
    write("a.csv", "id,text,note", "1,word,", "2,word,")
    assert done(counter, input=WITH_ID) == 2
    write("a.csv", "id,text,note", "1,word,", "2,other,", "3,word,")
    assert done(counter, input=WITH_ID) == 2
    write("b.csv", "id,text,note", "2,word,changed", "3,word,changed")
    assert done(counter, input=WITH_ID) == 0
    assert rows().set_index("id")["up"].to_dict() == {"1": "WORD 1", "2": "WORD 2", "3": "WORD 3"}
    for keys in Path("out/_secbatch/keys").glob("*.keys"):
        keys.unlink()
    write("b.csv", "id,text,note", "3,word,", "2,word,", "4,word,")
    assert done(counter, input=WITH_ID) == 1
    assert rows().set_index("id")["up"].to_dict() == {str(n): f"WORD {n}" for n in range(1, 5)}


def test_renamed_split_and_shuffled_files_cost_nothing(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    Path("in/a.csv").unlink()
    write("b.csv", "id,text,note", *reversed(LINES[:50]))
    write("c.csv", "id,text,note", *LINES[50:])
    assert done(counter, input=WITH_ID) == 0
    found = rows()
    assert sorted(found["secbatch_source"].unique()) == ["in/b.csv", "in/c.csv"] and len(found) == 100
    assert done(counter, input=WITH_ID) == 0


@needs_smaps
def test_a_night_is_put_together_without_its_parts_keys_in_memory(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    more, assemble = [], Assembly.assemble

    def watched(self: Assembly, *args: Any) -> Assembled:
        before = resident(self.layout.keys)  # of what was looked up
        made = assemble(self, *args)
        more.append(resident(self.layout.keys) - before)  # while its pieces name them
        return made

    monkeypatch.setattr(Assembly, "assemble", watched)
    write("a.csv", "id,text,note", *LINES, "new,first word,")
    assert done(counter, input=WITH_ID) == 1
    assert more == [0]


def test_changed_rows_cost_themselves_and_the_others_stay(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    parts = {path.name for path in Path("out/_secbatch/parts").iterdir()}
    changed = [line.replace("word", "term") if n % 25 == 0 else line for n, line in enumerate(LINES)]
    write("a.csv", "id,text,note", *changed)
    assert done(counter, input=WITH_ID) == 4
    assert sum(rows()["up"].str.startswith("TERM")) == 4 and len(rows()) == 100
    assert parts < {path.name for path in Path("out/_secbatch/parts").iterdir()}


def test_superseded_rows_are_not_done_again_each_night(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    write("b.csv", "id,text,note", *(line.replace("word", "later word") for line in LINES[:30]))
    assert done(counter, input=WITH_ID) == 130
    assert len(rows()) == 100
    result = run_job(job(input=WITH_ID))
    assert counter.rows == 130 and not result.published
    assert (result.read, result.superseded, result.rows_in_dataset) == (130, 30, 100)
    Path("in/b.csv").unlink()
    assert done(counter, input=WITH_ID) == 0  # the earlier rows are back, as they were
    assert sorted(rows()["text"]) == sorted(f"word {n}" for n in range(100))
    write("b.csv", "id,text,note", "7,other word 7,", "8,other word 8,")
    result = run_job(job(input=WITH_ID))  # the earlier rows stand in the dataset until now
    assert (result.read, result.superseded, result.rows_in_dataset) == (102, 2, 100)
    assert [version.rows for version in list_versions(Layout(Path("out")))] == [100, 100, 100]


def test_a_later_row_takes_the_place_of_its_own_earlier_one_in_each_partition(counter: Counter) -> None:
    output = {"path": "out", "partition_by": ["note"]}
    write("a.csv", "id,text,note", *(f"{n},word {n},kind {n % 3}" for n in range(100)))
    write("b.csv", "id,text,note", *(f"{n},later word {n},kind {n % 2}" for n in range(0, 100, 5)))
    for again in (False, True):
        assert done(counter, input=WITH_ID, output=output) == (0 if again else 120)
        texts = [f"later word {n}" if n % 5 == 0 else f"word {n}" for n in range(100)]
        assert sorted(rows()["text"]) == sorted(texts) and rows()["id"].is_unique


def test_an_earlier_row_that_comes_afterwards_is_done_once(counter: Counter) -> None:
    write("b.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    write("a.csv", "id,text,note", "7,older word 7,")
    assert [done(counter, input=WITH_ID) for _ in range(3)] == [1, 0, 0]
    assert sorted(rows()["text"]) == sorted(f"word {n}" for n in range(100))


def test_superseded_rows_that_the_input_no_longer_has_are_not_kept_beside_the_others(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    write("b.csv", "id,text,note", "7,other word 7,")
    put_aside = Path("out/_secbatch/parts/_superseded")
    done(counter, input=WITH_ID)
    assert len(list(put_aside.iterdir())) == 1
    write("a.csv", "id,text,note", *LINES[:7], *LINES[8:])
    for night in range(KEPT_VERSIONS):
        write("c.csv", "id,text,note", f"new,term {night},")
        done(counter, input=WITH_ID)
    assert not put_aside.exists() and len(rows()) == 101


def test_rows_stand_in_the_order_of_the_input_whatever_the_names_of_their_parts(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secbatch.store.merge.PART_ROWS", 20)
    for count in (80, 80, 90, 100):
        write("a.csv", "id,text,note", *LINES[:count])
        run_job(job(input=WITH_ID))
        assert rows()["id"].tolist() == [str(n) for n in range(count)]


def test_a_rejected_row_that_is_gone_goes_where_nothing_but_its_place_named_it(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES[:5], "x,POISON,", ",nameless,a")
    write("b.csv", "id,text,note", "y,POISON,", ",nameless,b")
    run_job(job(input=WITH_ID, max_rejects="100%"))
    Path("in/b.csv").unlink()  # a file that is not there says nothing of its rows
    write("a.csv", "id,text,note", *LINES[:5])
    run_job(job(input=WITH_ID, max_rejects="100%"))
    rejected = rows().query("secbatch_status == 'rejected'")
    assert rejected["id"].fillna("").tolist() == ["x", "y", ""] and rejected["note"].tolist()[2] == "b"
    assert len(rows()) == 8


def test_rejected_rows_that_stay_as_they_are_are_counted_each_night(counter: Counter) -> None:
    given = {"input": {**WITH_ID, "types": {"note": "int64"}}, "max_rejects": "100%"}
    write("a.csv", "id,text,note", "1,word 1,1", "2,word 2,two", ",word 3,3")
    assert [run_job(job(**given)).rejected for _ in range(3)] == [2, 2, 2]
    assert [done(counter, **given) for _ in range(3)] == [0, 0, 0]


def test_rejected_rows_that_a_later_one_replaces_are_not_done_again_each_night(counter: Counter) -> None:
    given = {"input": WITH_ID, "max_rejects": "100%"}
    write("a.csv", "id,text,note", *LINES, "x,poison,", "3,poison,")
    later = ["id,text,note", *(f"y{n},more," for n in range(10)), "x,later,"]
    write("b.csv", *later)
    assert done(counter, **given) == 113
    for _ in range(2):
        result = run_job(job(**given))
        assert (result.enriched, result.superseded, result.rejected) == (0, 2, 1) and not result.published
    assert counter.rows == 113
    Path("in/b.csv").unlink()
    result = run_job(job(**given))  # the earlier row is back, as it was
    assert counter.rows == 113 and (result.enriched, result.rejected) == (0, 2)
    back = rows().set_index("id").loc["x"]
    assert (back["text"], back["secbatch_status"]) == ("poison", "rejected")
    assert back["secbatch_error"] == "Task up: this row cannot be done."
    write("b.csv", *later)
    assert done(counter, **given) == 0
    run_job(job(**given), options=RunOptions(retry=True, partial=True))
    assert counter.rows == 113 + 2  # now they are asked for


def test_a_rejected_row_that_a_later_one_replaces_is_done_once_for_each_change(counter: Counter) -> None:
    given = {"input": WITH_ID, "max_rejects": "100%"}
    write("b.csv", "id,text,note", *LINES, "x,later,")
    for note in ("one", "two", "one"):  # no task reads it, but the row that was rejected is another one
        write("a.csv", "id,text,note", f"x,poison,{note}")
        run_job(job(**given))
        assert done(counter, **given) == 0


def test_a_rejected_row_that_a_later_one_replaces_is_not_done_again_for_the_order_of_columns(counter: Counter) -> None:
    given = {"input": WITH_ID, "max_rejects": "100%"}
    write("a.csv", "id,text,note", *LINES, "x,poison,one")
    write("b.csv", "id,text,note", *(f"y{n},more," for n in range(10)), "x,later,")
    run_job(job(**given))
    write("a.csv", "note,text,id", *(",".join(reversed(line.split(","))) for line in LINES), "one,poison,x")
    assert [done(counter, **given) for _ in range(2)] == [0, 0]


def test_replaced_rows_are_done_once_for_a_task_that_got_another_name(counter: Counter) -> None:
    given: dict[str, Any] = {"input": WITH_ID, "max_rejects": "100%"}
    write("a.csv", "id,text,note", "x,poison,", "y,good,", *LINES)
    write("b.csv", "id,text,note", "x,later,", "y,later,")
    run_job(job(**given))
    given["tasks"] = {"other": {"type": "fill-mask", "model": "fake", "text": "text"}}
    assert done(counter, **given) == 104 and [done(counter, **given) for _ in range(2)] == [0, 0]
    Path("in/b.csv").unlink()
    assert done(counter, **given) == 0
    back = rows().set_index("id")
    assert (back["secbatch_error"]["x"], back["other"]["y"]) == ("Task other: this row cannot be done.", "GOOD")


def test_a_rejected_row_that_was_replaced_says_nothing_of_a_task_that_is_gone(counter: Counter) -> None:
    up = {"type": "fill-mask", "model": "fake", "text": "text"}
    write("a.csv", "id,text,note", *LINES, "x,poison,")
    write("b.csv", "id,text,note", *(f"y{n},more," for n in range(10)), "x,later,")
    run_job(job(input=WITH_ID, max_rejects="100%", tasks={"two": up, "up": up}))
    Path("in/b.csv").unlink()
    assert run_job(job(input=WITH_ID, max_rejects="100%")).rejected == 1
    assert rows().set_index("id")["secbatch_error"]["x"] == "Task up: this row cannot be done."


def test_replaced_rows_of_an_earlier_release_are_there_without_what_was_wrong_with_them(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"input": WITH_ID, "max_rejects": "100%"}
    write("a.csv", "id,text,note", *LINES, "x,poison,")
    write("b.csv", "id,text,note", *(f"y{n},more," for n in range(10)), "x,later,")
    with monkeypatch.context() as earlier:
        earlier.setattr(Publisher, "_reusable_columns", lambda self: ["up", "secbatch_run"])
        run_job(job(**given))
    Path("in/b.csv").unlink()
    assert done(counter, **given) == 1
    assert rows().set_index("id")["secbatch_error"]["x"] == "Task up: this row cannot be done."


def test_a_job_that_changed_amid_a_run_takes_over_what_was_done(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(50):
        run_job(job(input=WITH_ID))
    up = {"type": "fill-mask", "model": "fake", "text": "text"}
    computed = counter.rows
    assert done(counter, input=WITH_ID, tasks={"up": up, "more": up}) == 200 - computed
    assert not list(Path("out/_secbatch/checkpoints").iterdir())


def test_two_nights_become_one_part(counter: Counter) -> None:
    for night in range(5):
        write(f"{night}.csv", "id,text,note", *LINES[night * 20 : night * 20 + 20])
        assert done(counter, input=WITH_ID) == 20
        assert len(list(Path("out/data").iterdir())) == 1
    assert rows()["id"].tolist() == [str(n) for n in range(100)]


def removed(how: str, **more: Any) -> dict[str, Any]:
    return {"path": "out", "removed": how, **more}


def test_a_rejected_row_that_a_later_one_replaces_is_not_counted(counter: Counter) -> None:
    given = {"input": {**WITH_ID, "types": {"note": "int64"}}, "max_rejects": "1"}
    header, many = "id,text,note", [f"{n},word {n},{n}" for n in range(60)]
    write("a.csv", header, "x,first,abc", "y,other,abc", *many)
    write("b.csv", header, "x,second,1")
    for _ in range(2):  # another shard has the later row; in the second run it has been there before
        result = run_job(job(**given))
        assert (result.rejected, result.superseded, result.exit_code) == (1, 1, 0)
        assert list(rows()["secbatch_status"]).count("rejected") == 1
    write("b.csv", header, "y,second,1", "x,second,1")
    result = run_job(job(**given))  # now the one that stood in the dataset gives way
    assert (result.rejected, result.superseded) == (0, 2) and set(rows()["secbatch_status"]) == {"ok"}


@pytest.mark.parametrize("how", ["keep", "mark", "drop"])
@pytest.mark.parametrize("partition_by", [[], ["note"]])
def test_a_row_without_id_gives_way_to_what_its_file_holds_now(
    counter: Counter, how: str, partition_by: list[str]
) -> None:
    given = {
        "input": {**WITH_ID, "types": {"id": "int64"}},
        "output": removed(how, max_removed="0", partition_by=partition_by),
        "max_rejects": "100%",
    }
    header = "id,text,note"
    write("a.csv", header, "1,one,n", ",nameless,n", ",another,m")
    write("b.csv", header, ",elsewhere,n")
    done(counter, **given)
    write("a.csv", header, "2,two,n", "1,one,n", ",nameless,n", ",another,m")  # each stands a line lower now
    result = run_job(job(**given))
    assert sorted(rows()["text"]) == ["another", "elsewhere", "nameless", "one", "two"]
    assert result.rejected == 3 and not any("no longer" in text for text in result.notices)
    write("a.csv", header, "2,two,n", "1,one,n", "3,nameless,n", "4,another,m")  # mended
    assert run_job(job(**given)).rejected == 1
    assert rows().set_index("text")["secbatch_status"].to_dict() == {
        "one": "ok",
        "two": "ok",
        "nameless": "ok",
        "another": "ok",
        "elsewhere": "rejected",
    }


def test_removed_rows_are_kept_marked_or_dropped(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    run_job(job(input=WITH_ID))
    write("a.csv", "id,text,note", *LINES[:80])
    result = run_job(job(input=WITH_ID))
    assert len(rows()) == 100 and not result.published
    result = run_job(job(input=WITH_ID, output=removed("mark")))
    assert "20 rows are no longer in the input and were marked." in result.notices
    assert rows()["secbatch_status"].value_counts().to_dict() == {"ok": 80, "removed": 20}
    assert not run_job(job(input=WITH_ID, output=removed("mark"))).published
    write("a.csv", "id,text,note", *LINES[:90])
    assert done(counter, input=WITH_ID, output=removed("mark")) == 0
    assert rows()["secbatch_status"].value_counts().to_dict() == {"ok": 90, "removed": 10}
    result = run_job(job(input=WITH_ID, output=removed("drop")))
    assert sorted(rows()["id"].astype(int)) == list(range(90)) and set(rows()["secbatch_status"]) == {"ok"}


def test_rows_that_are_written_anew_and_not_computed_are_not_counted_as_done_now(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    assert run_job(job(input=WITH_ID)).done == {"up": 100}
    write("a.csv", "id,text,note", *LINES[:80])
    run_job(job(input=WITH_ID, output=removed("mark")))
    write("a.csv", "id,text,note", *LINES)
    result = run_job(job(input=WITH_ID, output=removed("mark")))
    assert (result.published, result.reused, result.done) == (True, 100, {})
    assert not [text for text in result.notices if "nothing to do" in text]
    write("a.csv", "id,text,note", "0,another,x", *LINES[1:])
    assert run_job(job(input=WITH_ID, output=removed("mark"))).done == {"up": 1}


def test_one_row_that_is_gone_is_spoken_of_as_one(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES[:3])
    run_job(job(input=WITH_ID))
    write("a.csv", "id,text,note", *LINES[:2])
    with pytest.raises(OutputError, match=r"1 of the 3 rows in 'out' is no longer in the input"):
        run_job(job(input=WITH_ID, output=removed("drop", max_removed="0")))
    result = run_job(job(input=WITH_ID, output=removed("drop")))
    assert "1 row is no longer in the input and was dropped." in result.notices


def test_an_input_that_lost_half_its_rows_stops_the_run(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    run_job(job(input=WITH_ID))
    write("a.csv", "id,text,note", *LINES[:50])
    with pytest.raises(OutputError, match=r"50 of the 100 rows .* nothing was changed"):
        run_job(job(input=WITH_ID, output=removed("drop")))
    assert len(rows()) == 100
    run_job(job(input=WITH_ID, output=removed("drop", max_removed="100%")))
    assert len(rows()) == 50


def test_a_truncated_file_stops_the_run_and_an_edited_one_does_not(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    run_job(job())
    write("a.csv", "id,text,note", *LINES[:50])
    with pytest.raises(OutputError, match="no longer in the input"):
        run_job(job())
    write("a.csv", "id,text,note", *(line.upper() for line in LINES))
    run_job(job())
    assert len(rows()) == 100 and rows()["text"].str.startswith("WORD").all()


def test_rows_behind_the_place_where_a_file_breaks_off_stay(counter: Counter) -> None:
    lines = [f"{n},{random.Random(n).randbytes(40).hex()},note {n}" for n in range(100)]
    packed = gzip.compress("\n".join(["id,text,note", *lines]).encode())
    Path("in").mkdir()
    for content in (packed, packed[: len(packed) // 2]):
        Path("in/a.csv.gz").write_bytes(content)
        output = {"path": "out", "removed": "drop", "max_removed": "100%"}
        result = run_job(job(input__path="in", max_rejects="100%", output=output))
        assert sorted(rows()["id"], key=int) == [str(n) for n in range(100)]
    assert 0 < result.read < 100


def test_rows_that_a_new_task_was_computed_for_are_of_that_run(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES, "blank,,")
    first = run_job(job(input=WITH_ID))
    task = {"type": "fill-mask", "model": "fake"}
    result = run_job(job(input=WITH_ID, tasks={"up": {**task, "text": "text"}, "more": {**task, "text": "note"}}))
    assert result.run != first.run and set(rows().query("id != 'blank'")["secbatch_run"]) == {result.run}


def test_a_part_of_the_input_removes_nothing(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    drop = removed("drop", max_removed="100%")
    run_job(job(input=WITH_ID, output=drop))
    run_job(job(input=WITH_ID, output=drop), limit=10)
    write("b.csv", "id,text,note", "0,newer,", "x,new,")
    result: RunResult = run_job(
        job(input={**WITH_ID, "path": "in/b.csv"}, output=drop), options=RunOptions(partial=True)
    )
    assert result.rows_in_dataset == 101 and rows().set_index("id")["text"]["0"] == "newer"


def test_nor_does_it_without_ids(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    run_job(job())
    write("a.csv", "id,text,note", *LINES[:2])
    result = run_job(job(input__path="in/a.csv"), options=RunOptions(partial=True))
    assert (result.read, result.rows_in_dataset) == (2, 100)


@pytest.mark.parametrize("first", ["poison", "good"])
def test_what_a_task_did_for_a_row_that_another_one_rejects_serves_equal_rows(counter: Counter, first: str) -> None:
    tasks = {
        name: {"type": "fill-mask", "model": "fake", "text": column}
        for name, column in (("up", "text"), ("two", "note"))
    }
    lines = ["1,poison,n", "2,good,n"] if first == "poison" else ["1,good,n", "2,poison,n"]
    write("a.csv", "id,text,note", *lines)
    run_job(job(input=WITH_ID, tasks=tasks, max_rejects="100%"))
    write("a.csv", "id,text,note", *lines, "3,poison,n")
    before = counter.rows
    assert run_job(job(input=WITH_ID, tasks=tasks, max_rejects="100%")).rejected == 2
    assert counter.rows == before + 1  # `up` has given none of them a value; `two` was through with both
    assert set(rows()["two"]) == {"N"} and list(rows()["up"].isna()) == [
        text.startswith("poison") for text in rows()["text"]
    ]


def test_rejected_rows_are_done_again_when_asked(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES, "bad,poison,")
    run_job(job(input=WITH_ID))
    before = counter.rows
    result = run_job(job(input=WITH_ID))
    assert counter.rows == before and result.rejected == 1
    result = run_job(job(input=WITH_ID), options=RunOptions(retry=True))
    assert counter.rows == before + 1 and result.rejected == 1 and len(rows()) == 101


@pytest.mark.parametrize("partition_by", [[], ["kind"]], ids=["whole", "partitioned"])
def test_large_checkpoints_become_parts_as_they_are(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, partition_by: list[str]
) -> None:
    write("a.csv", "id,text,note,kind", *(f"{line},{number // 17 % 2}" for number, line in enumerate(LINES)))
    output = {"partition_by": partition_by}
    run_job(job(input=WITH_ID, output={"path": "merged", **output}))
    monkeypatch.setattr("secbatch.store.pieces.FULL_BYTES", 1)
    merged: list[Path] = []
    original = Merger._write

    def watched(self: Merger, name: str, pieces: list[Any], *rest: Any, **more: Any) -> Any:
        part = original(self, name, pieces, *rest, **more)
        merged.append(self.layout.parts / part.files[0])
        return part

    monkeypatch.setattr(Merger, "_write", watched)
    links: list[Path] = []
    link = link_durably
    monkeypatch.setattr(
        "secbatch.store.merge.link_durably", lambda source, path, step: (links.append(path), link(source, path, step))
    )
    run_job(job(input=WITH_ID, output={"path": "out", **output}))
    assert len(links) >= 9 if not partition_by else not links
    assert set(links) <= set(merged)
    columns = ["id", "text", "note", "up", "secbatch_id", "secbatch_source", "secbatch_row", "secbatch_status"]
    assert rows()[columns].equals(pd.read_parquet("merged/data")[columns])
    assert {bool(pq.read_schema(file).metadata[b"secbatch"]) for file in Path("out/data").rglob("*.parquet")} == {True}
    for file in [*Path("merged/data").rglob("*.parquet"), *Path("out/data").rglob("*.parquet")]:
        group = pq.ParquetFile(file).metadata.row_group(0)
        assert {group.column(place).compression for place in range(group.num_columns)} == {"ZSTD"}
    assert not list(Path("out/_secbatch/checkpoints").iterdir())
    # They are found again, and one changed row leaves the other parts alone.
    assert done(counter, input=WITH_ID, output={"path": "out", **output}) == 0
    before = {file.stat().st_ino for file in Path("out/data").rglob("*.parquet")}
    changed = [line.replace("word 55", "word fifty-five") for line in LINES]
    write("a.csv", "id,text,note,kind", *(f"{line},{number // 17 % 2}" for number, line in enumerate(changed)))
    assert done(counter, input=WITH_ID, output={"path": "out", **output}) == 1
    assert len(before & {file.stat().st_ino for file in Path("out/data").rglob("*.parquet")}) >= len(before) - 2
    assert sorted(rows()["id"], key=int) == [str(n) for n in range(100)]


def test_many_partitions_do_not_read_a_shard_over_and_over(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (4000,))
    write("a.csv", "id,text,note", *(f"{n},word {n},{n % 50}" for n in range(4000)))
    given: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, *arguments: Any, **more: Any) -> pa.Table:
        table = read(self, *arguments, **more)
        given.append(table.num_rows)
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    output = {"path": "out", "partition_by": ["note"]}
    assert done(counter, input=WITH_ID, output=output) == 4000 and len(rows()) == 4000
    assert sum(given) == 4000  # for 50 partitions
    assert done(counter, input=WITH_ID, output=output) == 0


def test_dropped_rows_leave_the_rejects_too(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES, "too,many,fields,here")
    run_job(job(input=WITH_ID, max_rejects="5"))
    assert len(list(Path("out/_secbatch/rejects").iterdir())) == 1
    write("a.csv", "id,text,note", *LINES)
    run_job(job(input=WITH_ID))
    assert len(list(Path("out/_secbatch/rejects").iterdir())) == 1
    run_job(job(input=WITH_ID, output=removed("drop")))
    assert not list(Path("out/_secbatch/rejects").iterdir())


@pytest.mark.parametrize("how", ["keep", "mark", "drop"])
def test_a_document_that_became_shorter_keeps_no_sentence_of_before(counter: Counter, how: str) -> None:
    night = {
        "input": {**WITH_ID, "sentences": "text"},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "sentence"}},
        "output": {"path": "out", "removed": how},
    }
    write("a.csv", "id,text", "a/1,One. Two. Three.", "b,Four. Five.", "c,Six. Seven. Eight.")
    write("b.csv", "id,text", "d,Nine.")
    run_job(job(**night))
    write("a.csv", "id,text", "a/1,One. Changed.", "b,", "c,Six. Seven. Eight.")
    run_job(job(**night), options=RunOptions(limit=1))  # of a/1 one sentence was read, which says nothing of the others
    assert list(rows()["sentence"]).count("Three.") == 1
    Path("in/b.csv").unlink()  # its document is not shorter, but gone
    result = run_job(job(**night))
    left = {} if how == "drop" else {"Nine.": "removed" if how == "mark" else "ok"}
    expected = dict.fromkeys(["One.", "Changed.", "Six.", "Seven.", "Eight."], "ok") | left
    found = rows()
    assert (
        dict(zip(found["sentence"].dropna(), found["secbatch_status"][found["sentence"].notna()], strict=True))
        == expected
    )
    assert list(found["id"]).count("b") == 1 and len(found) == len(expected) + 1
    dropped = "3 rows" if how == "drop" else "2 rows"
    assert f"{dropped} are no longer in the input and were dropped." in result.notices


def test_documents_that_became_blank_are_an_input_that_lost_its_rows(counter: Counter) -> None:
    night = {
        "input": {**WITH_ID, "sentences": "text"},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "sentence"}},
    }
    write("a.csv", "id,text", "a,One. Two. Three.", "b,Four. Five.")
    run_job(job(**night))
    write("a.csv", "id,text", "a,", "b,")
    with pytest.raises(OutputError, match="no longer in the input"):
        run_job(job(**night))
    assert len(rows()) == 5


def test_keys_that_are_worked_out_know_rows_that_never_had_a_task(counter: Counter) -> None:
    up = {"type": "fill-mask", "model": "fake", "text": "text"}
    both = {"up": up, "more": {**up, "text": "note"}}
    write("a.csv", "id,text,note", *LINES[:10])
    done(counter, input=WITH_ID, tasks={"up": up})
    write("a.csv", "id,text,note", *LINES[20:30])
    done(counter, input=WITH_ID, tasks=both)
    assert len(list(Path("out/data/").iterdir())) == 1  # all rows in one part
    for keys in Path("out/_secbatch/keys").glob("*.keys"):
        keys.unlink()

    write("a.csv", "id,text,note", *LINES[:10], *LINES[20:30])
    assert done(counter, input=WITH_ID, tasks=both) == 10
    found = rows().set_index("id")["more"]
    assert len(found) == 20 and all(found[name] == f"NOTE {name}" for name in found.index)


@pytest.mark.parametrize("nights", [1, 4])
@pytest.mark.parametrize("comes_back", ["with its rows", "before its rows"])
def test_a_task_that_comes_back_is_done_for_rows_that_stayed_without_its_columns(
    counter: Counter, nights: int, comes_back: str
) -> None:
    up = {"type": "fill-mask", "model": "fake", "text": "text"}
    both = {"up": up, "more": {**up, "text": "note"}}
    write("a.csv", "id,text,note", *LINES[:10])
    done(counter, input=WITH_ID, tasks=both)
    notices: list[str] = []
    for night in range(nights):  # as two jobs do that write into one output
        write("a.csv", "id,text,note", *LINES[20 + night : 30 + night])
        notices += run_job(job(input=WITH_ID, tasks={"up": up})).notices
    assert [text for text in notices if "more" in text] == [
        "Task 'more' is no longer in the job; its columns go from the dataset."
    ]
    if comes_back == "before its rows":
        write("a.csv", "id,text,note", *LINES[50:60])
        done(counter, input=WITH_ID, tasks=both)
        assert rows().set_index("id")["more"].count() == 10

    write("a.csv", "id,text,note", *LINES[:10])
    assert done(counter, input=WITH_ID, tasks=both) == (
        0 if nights == 1 else 10
    )  # earlier versions that are kept have it
    found = rows().set_index("id")
    assert found.index.is_unique
    assert [found["more"][str(n)] for n in range(10)] == [f"NOTE {n}" for n in range(10)]
    assert [found["up"][str(n)] for n in range(10)] == [f"WORD {n}" for n in range(10)]


def test_superseded_rows_in_other_parts_are_nothing_to_publish(counter: Counter) -> None:
    lines = [f"{n},word {n}," for n in range(30)]
    write("a.csv", "id,text,note", *lines)
    write("b.csv", "id,text,note", *lines[::3])
    done(counter, input=WITH_ID)
    write("b.csv", "id,text,note", *lines[::3], "1,later,", "20,later,")
    done(counter, input=WITH_ID)
    before = Path("out/data").readlink()

    assert not run_job(job(input=WITH_ID)).published
    assert Path("out/data").readlink() == before
    assert done(counter, input=WITH_ID) == 0
    write("a.csv", "id,text,note", "1,other,", *lines[2:])
    run_job(job(input=WITH_ID))  # its result is kept aside, though nobody sees it
    assert done(counter, input=WITH_ID) == 0


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-9])], ids=["gone", "cut"]
)
def test_superseded_rows_whose_file_is_gone_or_cut_are_done_again(
    counter: Counter, damage: Callable[[Path], object]
) -> None:
    lines = [f"{n},word {n}," for n in range(30)]
    write("a.csv", "id,text,note", *lines)
    write("b.csv", "id,text,note", *lines[::3])
    done(counter, input=WITH_ID)
    write("b.csv", "id,text,note", *lines[::3], "1,later,", "20,later,")  # which makes other parts of them
    done(counter, input=WITH_ID)
    for file in Path("out/_secbatch/parts/_superseded").iterdir():
        damage(file)
    assert run_job(job(input=WITH_ID)).published and len(rows()) == 30
    assert [done(counter, input=WITH_ID) for _ in range(2)] == [0, 0]


def test_checkpoints_that_are_smaller_than_they_seemed_are_not_merged_by_the_next_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_in(tmp_path, monkeypatch, (1024,))
    digits = random.Random(0)
    notes = [f"{digits.getrandbits(800):x}" if number % 1024 < 512 else "short" for number in range(2048)]
    write("a.csv", "id,text,note", *(f"{number},word {number},{note}" for number, note in enumerate(notes)))
    # A shard seems to have 120,000 bytes, by its first rows, and has 63,000.
    monkeypatch.setattr("secbatch.store.pieces.FULL_BYTES", 90_000)
    first = run_job(job(input=WITH_ID))
    again = run_job(job(input=WITH_ID))
    assert again.reused == 2048 and (again.published, again.version) == (False, first.version)
    assert again.part_files == first.part_files
