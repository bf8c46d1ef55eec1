"""What surrounds the tasks: every row comes out once, with or without reuse, whatever the input."""

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_task import Counter, UpperTask, install_in, interrupted_after
from nights import LINES, WITH_ID, done, job, rows, write

from secbatch.errors import EXIT_USAGE, InputError, JobError, OutputError, OutputHeldError, UnfitOutputError
from secbatch.planning import plan_job
from secbatch.run_options import RunOptions
from secbatch.runner import run_job
from secbatch.store.lock import hold
from secbatch.tasks.base import TaskColumns


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (2, 3))


def texts(path: str = "out") -> list[str]:
    return sorted(rows(path)["text"])


def test_every_row_comes_out_once_with_its_place(counter: Counter) -> None:
    write("a.csv", "n,text", *(f"{n},word {n}" for n in range(20)))
    result = run_job(job())
    found = rows()
    assert found["text"].tolist() == [f"word {n}" for n in range(20)]
    assert found["up"].tolist() == [f"WORD {n}" for n in range(20)]
    assert found["n"].tolist() == [str(n) for n in range(20)]
    assert found["secbatch_row"].tolist() == list(range(1, 21))
    assert set(found["secbatch_source"]) == {"in/a.csv"}
    assert set(found["secbatch_status"]) == {"ok"} and found["secbatch_error"].isna().all()
    assert found["secbatch_id"].is_unique
    assert (result.read, result.enriched, result.reused, result.exit_code) == (20, 20, 0, 0)
    record = json.loads(Path("out/_secbatch/runs/latest.json").read_text())
    assert record["counts"]["enriched"] == 20 and record["state"] == "finished" and record["run"] == result.run


def test_an_output_whose_name_begins_like_a_uri(counter: Counter) -> None:
    write("a.csv", "n,text", *(f"{n},word {n}" for n in range(20)))
    assert run_job(job(output__path="siem:eu")).exit_code == 0
    assert run_job(job(output__path="siem:eu")).reused == 20
    assert len(rows(str(Path("siem:eu").absolute()))) == 20


def test_a_second_run_does_nothing(counter: Counter) -> None:
    write("a.csv", "text", "x", "y", "x")
    first = run_job(job())
    before = counter.rows
    second = run_job(job())
    assert counter.rows == before
    assert (second.enriched, second.reused, second.version, second.published) == (0, 3, first.version, False)
    assert texts() == ["x", "x", "y"]
    assert set(rows()["secbatch_run"]) == {first.run}


def test_appended_and_new_rows_are_added(counter: Counter) -> None:
    write("a.csv", "text", *"abcdefgh")
    run_job(job())
    write("a.csv", "text", *"abcdefghi")
    write("b.csv", "text", "new")
    result = run_job(job())
    assert texts() == [*"abcdefghi", "new"]
    assert result.reused >= 5


def test_a_renamed_file_costs_nothing(counter: Counter) -> None:
    write("a.csv", "text", *"abcde")
    run_job(job())
    before = counter.rows
    Path("in/a.csv").rename("in/z.csv")
    run_job(job())
    assert counter.rows == before
    assert texts() == list("abcde")


def test_a_changed_row_replaces_the_old_one(counter: Counter) -> None:
    write("a.csv", "id,text", "1,a", "2,b", "3,c", "4,d")
    with_id = {"path": "in/*.csv", "id": ["id"]}
    run_job(job(input=with_id))
    write("a.csv", "id,text", "1,a", "2,B", "3,c", "4,d")
    run_job(job(input=with_id))
    assert dict(zip(rows()["id"], rows()["text"], strict=True)) == {"1": "a", "2": "B", "3": "c", "4": "d"}


def test_rows_of_files_that_are_gone_are_kept_and_updated_by_id(counter: Counter) -> None:
    with_id = {"path": "in/*.csv", "id": ["id"]}
    write("day1.csv", "id,text", "1,a", "2,b", "3,c")
    run_job(job(input=with_id))
    Path("in/day1.csv").unlink()
    write("day2.csv", "id,text", "2,newer", "4,d")
    run_job(job(input=with_id))
    assert dict(zip(rows()["id"], rows()["text"], strict=True)) == {
        "1": "a",
        "2": "newer",
        "3": "c",
        "4": "d",
    }


def test_two_rows_with_one_id_the_later_wins_wherever_it_stands(counter: Counter) -> None:
    write("a.csv", "id,text", "1,first", "2,b", "3,c", "1,same file", "4,d")
    write("b.csv", "id,text", "1,later file", "5,e")
    result = run_job(job(input={"path": "in/*.csv", "id": ["id"]}))
    found = rows()
    assert dict(zip(found["id"], found["text"], strict=True)) == {
        "1": "later file", "2": "b", "3": "c", "4": "d", "5": "e",
    }  # fmt: skip
    assert len(found) == 5
    assert result.superseded == 2
    assert result.read == len(found) + result.superseded


def test_changing_one_task_recomputes_only_it(counter: Counter) -> None:
    task = {"type": "fill-mask", "model": "fake", "text": "text"}
    write("a.csv", "text", *"abcdef")
    run_job(job(tasks={"one": task, "two": task}))
    assert counter.rows == 12
    run_job(job(tasks={"one": task, "two": {**task, "top_k": 3}}))
    assert counter.rows == 18
    run_job(job(tasks={"one": task, "two": {**task, "top_k": 3}, "three": task}))
    assert counter.rows == 24
    found = rows()
    assert found["one"].tolist() == found["two"].tolist() == found["three"].tolist() == list("ABCDEF")


def test_limit_is_no_removal_and_the_rest_follows(counter: Counter) -> None:
    write("a.csv", "text", *"abcdefghij")
    assert run_job(job(), limit=3).read == 3
    assert texts() == list("abc")
    run_job(job())
    assert texts() == list("abcdefghij")
    run_job(job(), limit=4)
    assert texts() == list("abcdefghij")


def test_partitions_and_their_changes(counter: Counter) -> None:
    partitioned = {"path": "out", "partition_by": ["day"], "removed": "drop", "max_removed": "100%"}
    with_id = {"path": "in/*.csv", "id": ["id"]}
    write("a.csv", "id,day,text", "1,mon,a", "2,tue,b", "3,,c", "4,007,d")
    result = run_job(job(input=with_id, output=partitioned))
    folders = sorted(p.name for p in Path("out/data").iterdir())
    assert folders == ["day=__HIVE_DEFAULT_PARTITION__", "day=mon", "day=tue"]
    assert result.rejected == 2  # the empty text and 007 cannot be told from null and 7 in a folder's name
    write("a.csv", "id,day,text", "1,tue,a", "2,tue,b")
    run_job(job(input=with_id, output=partitioned))
    found = rows()
    assert sorted(zip(found["id"], found["day"].astype(str), strict=True)) == [("1", "tue"), ("2", "tue")]


def test_rejected_rows_stay_in_the_dataset(counter: Counter) -> None:
    write("a.csv", "text,score", "a,1.5", "poison,2", "c,many")
    result = run_job(job(input={"path": "in/*.csv", "types": {"score": "float64"}}))
    found = rows()
    assert found["secbatch_status"].tolist() == ["ok", "rejected", "rejected"]
    assert "cannot be done" in found["secbatch_error"][1]
    assert "score" in found["secbatch_error"][2] and "many" in found["secbatch_error"][2]
    assert (result.rejected, result.exit_code) == (2, 3)


def test_unparseable_lines_go_to_the_rejects(counter: Counter) -> None:
    write("a.csv", "a,text", "1,x", "2,y,z,too many", "3,w")
    result = run_job(job(max_rejects="2"))
    assert texts() == ["w", "x"]
    rejects = pq.read_table("out/_secbatch/rejects").to_pylist()
    assert [(r["source"], r["line"], r["raw"].strip()) for r in rejects] == [("in/a.csv", 3, "2,y,z,too many")]
    assert (result.unparseable, result.exit_code) == (1, 0)
    assert run_job(job(max_rejects="0")).exit_code == 3


def test_a_task_without_any_work_is_said(counter: Counter) -> None:
    write("a.csv", "text,other", "a,", "b,")
    result = run_job(job(input={"path": "in/*.csv", "types": {"other": "string"}}))
    assert result.done == {"up": 2} and not [text for text in result.notices if "nothing to do" in text]
    Path("in/b.jsonl").write_text('{"text": null, "n": 1}\n{"text": null, "n": 2}\n')
    result = run_job(job(input={"path": "in/b.jsonl", "types": {"text": "string"}}, output__path="none"))
    assert [text for text in result.notices if "nothing to do: no enriched row of 'text' has a <mask>" in text]


def test_a_task_whose_rows_are_all_rejected_is_not_said_to_have_had_none(counter: Counter) -> None:
    write("a.csv", "text,other", "a,b")
    result = run_job(job(input={"path": "in/*.csv", "types": {"other": "int64"}}))
    assert (result.done, result.rejected) == ({"up": 0}, 1)
    (said,) = [text for text in result.notices if "Task 'up'" in text]
    assert said == "Task 'up' has no results: 1 row was rejected, and no other row of 'text' has a <mask>."


def test_a_task_whose_new_rows_are_all_rejected_is_not_said_to_have_no_others(counter: Counter) -> None:
    write("a.csv", "text,other", "a,1")
    spec = {"path": "in/*.csv", "types": {"other": "int64"}}
    assert run_job(job(input=spec)).done == {"up": 1}
    write("a.csv", "text,other", "a,1", "b,c")
    result = run_job(job(input=spec))
    assert (result.done, result.rejected, result.reused) == ({"up": 0}, 1, 1)
    (said,) = [text for text in result.notices if "Task 'up'" in text]
    assert said == "Task 'up' has no new results: 1 row was rejected, and no other new row of 'text' has a <mask>."


def test_what_two_tasks_say_of_a_row_alike_is_said_once(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = UpperTask.finish

    def alike(task: UpperTask, computed: Any) -> TaskColumns:
        done = finish(task, computed)
        more = dict.fromkeys(done.errors, "the text has 9 tokens")
        return replace(done, errors=more if task.name != "other" else done.errors)

    monkeypatch.setattr(UpperTask, "finish", alike)
    write("a.csv", "text", "ok", "poison")
    spec = {"type": "fill-mask", "model": "fake", "text": "text"}
    run_job(job(tasks={"one": spec, "two": spec, "other": spec}))
    (said,) = rows()["secbatch_error"].dropna()
    assert said == "the text has 9 tokens Task other: this row cannot be done."


def test_max_rejects_as_a_share(counter: Counter) -> None:
    write("a.csv", "text", *["ok"] * 99, "poison")
    assert run_job(job(max_rejects="1%")).exit_code == 0
    assert run_job(job(max_rejects="0.9%", output__path="other")).exit_code == 3


def test_an_interrupted_run_goes_on_as_the_same_run(counter: Counter) -> None:
    write("a.csv", "text", *"abcdefghijkl")
    with interrupted_after(5):
        run_job(job())
    record = json.loads(Path("out/_secbatch/runs/latest.json").read_text())
    assert record["state"] == "interrupted"
    done = counter.rows
    result = run_job(job())
    assert counter.rows == 12 and result.reused == done
    assert result.run == record["run"]
    assert texts() == list("abcdefghijkl")


def test_modes(counter: Counter) -> None:
    write("a.csv", "text", "a", "b")
    run_job(job())
    with pytest.raises(UnfitOutputError, match="exists already") as refused:
        run_job(job(output__mode="fail-if-exists"))
    assert refused.value.exit_code == EXIT_USAGE  # to try again cannot help
    Path("in/a.csv").unlink()
    write("b.csv", "text", "c")
    run_job(job(output__mode="overwrite"))
    assert texts() == ["c"]


def test_an_input_without_rows_gives_an_empty_dataset_with_columns(counter: Counter) -> None:
    write("a.csv", "n,text")
    result = run_job(job())
    assert result.read == 0 and result.exit_code == 0
    found = rows()
    assert len(found) == 0 and {"n", "text", "up", "secbatch_id"} <= set(found.columns)
    write("a.csv", "n,text", "1,x")
    run_job(job())
    assert texts() == ["x"]


def test_superseded_rows_outlast_nights_that_read_a_part_of_the_input(counter: Counter) -> None:
    write("b.csv", "id,text,note", *LINES)
    write("c.csv", "id,text,note", *(line.replace("word", "later word") for line in LINES[:30]))
    run_job(job(input=WITH_ID))
    for night in range(4):  # no version of the first night is kept
        write("a.csv", "id,text,note", f"new {night},new,")
        run_job(job(input=WITH_ID), options=RunOptions(limit=1))
    Path("in/c.csv").unlink()
    assert done(counter, input=WITH_ID) == 0


def test_rows_of_a_large_part_are_marked(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secbatch.store.pieces.FULL_BYTES", 1)
    output = {"path": "out", "removed": "mark", "max_removed": "100%"}
    write("a.csv", "id,text,note", *LINES)
    run_job(job(input=WITH_ID, output=output))
    write("a.csv", "id,text,note", *LINES[:95])
    run_job(job(input=WITH_ID, output=output))
    assert rows().set_index("id")["secbatch_status"].to_dict() == {
        str(n): "ok" if n < 95 else "removed" for n in range(100)
    }


def test_a_run_that_drops_what_is_gone_keeps_its_own_rejects(counter: Counter) -> None:
    for lines in (["1,a,", "too,many,fields,here", "2,b,"], ["1,a,", "too,many,fields,again", "2,b,"]):
        write("a.csv", "id,text,note", *lines)
        run_job(job(input=WITH_ID, output={"path": "out", "removed": "drop"}, max_rejects="1"))
        [reject] = pq.read_table("out/_secbatch/rejects").to_pylist()
        assert reject["raw"].strip() == lines[1]


def test_broken_values_behind_a_limit_are_not_counted(counter: Counter) -> None:
    write("a.csv", "text,n", "a,1", "b,two", "c,three", "d,4")
    for limit, rejected in ((1, 0), (2, 1), (3, 2)):
        result = run_job(job(input__types={"n": "int64"}, max_rejects="100%"), options=RunOptions(limit=limit))
        assert (result.read, result.rejected) == (limit, rejected)


@pytest.mark.parametrize("limit", [0, -1, 2.5, "5"])
def test_a_limit_is_a_number_of_rows(counter: Counter, limit: Any) -> None:
    write("a.csv", "text", "a", "b")
    for attempt in (run_job, plan_job):
        with pytest.raises(JobError, match=f"limit must be a whole number of rows.* it is {limit!r}"):
            attempt(job(), limit=limit)  # type: ignore[operator]
    assert not Path("out").exists()
    assert run_job(job(), limit=1, options=RunOptions(partial=True)).read == 1


@pytest.mark.parametrize("given", ["job.yaml", Path("job.yaml"), {"name": "a"}, None])
def test_what_is_no_job_is_said(counter: Counter, given: Any) -> None:
    for attempt in (run_job, plan_job):
        with pytest.raises(JobError, match=r"is no job; secbatch\.jobfile\.load_job reads one"):
            attempt(given)  # type: ignore[operator]


def test_what_cannot_be_is_said_before_any_work(counter: Counter) -> None:
    write("a.csv", "text,UP", "a,b")
    with pytest.raises(JobError, match="has the name of the output column 'up'; rename the input column or the task"):
        run_job(job())
    write("a.csv", "text,secbatch_id", "a,b")
    with pytest.raises(JobError, match="'secbatch_id', which each output has; rename it in the input, or leave it out"):
        run_job(job())
    write("a.csv", "text,__filename", "a,b")
    with pytest.raises(JobError, match="column '__filename' has a name that pyarrow and pandas give to a column"):
        run_job(job())
    spec = {"type": "fill-mask", "model": "fake", "text": "text"}
    write("a.csv", "text", "a")
    with pytest.raises(JobError, match="two columns 'up' and 'UP'; rename a task"):
        run_job(job(tasks={"up": spec, "UP": spec}))
    assert not Path("out").exists()
    with pytest.raises(InputError, match=r"input.id: there is no column 'txet' in the input \(did you mean 'text'"):
        run_job(job(input={"path": "in/*.csv", "id": ["txet"]}))
    run_job(job())
    with pytest.raises(UnfitOutputError, match="that cannot change"):
        run_job(job(input={"path": "in/*.csv", "id": ["text"]}))
    assert counter.rows == 1


def test_a_refused_run_leaves_alone_an_output_that_another_has_made_since(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.csv", "text", "a")

    def held_after_another(lock: Path) -> AbstractContextManager[None]:
        monkeypatch.setattr("secbatch.runner.hold", hold)
        run_job(job())
        return hold(lock)

    monkeypatch.setattr("secbatch.runner.hold", held_after_another)
    with pytest.raises(UnfitOutputError, match="that cannot change"):
        run_job(job(input={"path": "in/*.csv", "id": ["text"]}))
    assert texts() == ["a"] and run_job(job()).reused == 1


@pytest.mark.parametrize("there", [False, True])
def test_a_ledger_that_cannot_be_opened_leaves_no_output_behind(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    write("a.csv", "text", "a")
    if there:
        Path("out").mkdir()
    monkeypatch.setattr("secbatch.store.ledger.create", lambda connection: connection.execute("no statement"))
    with pytest.raises(OutputError, match="cannot be opened"):
        run_job(job())
    assert Path("out").exists() is there and not Path("out/_secbatch").exists()


def test_what_a_model_refuses_is_said_with_its_task(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "text", "a")
    said = "generation.num_beams is 3, which this model has not"

    def refuse(*_: Any) -> None:
        raise JobError(said)

    with monkeypatch.context() as patch, pytest.raises(JobError, match=rf"^tasks\.up\.{said}$"):
        patch.setattr(UpperTask, "load", refuse)
        run_job(job())
    said = "tasks.up.text: there is no such column"
    with monkeypatch.context() as patch, pytest.raises(JobError, match=f"^{said}$"):
        patch.setattr("secbatch.worker.build_task", refuse)
        run_job(job())


def test_a_held_output_is_said(counter: Counter) -> None:
    write("a.csv", "text", "a")
    with hold(Path("out/_secbatch/lock").resolve()), pytest.raises(OutputHeldError):
        run_job(job())


def test_footers_name_the_job_and_the_models(counter: Counter) -> None:
    write("a.csv", "text", "a")
    run_job(job())
    file = next(Path("out/data").glob("*.parquet"))
    about = json.loads(pq.read_schema(file).metadata[b"secbatch"])
    assert about["job"] == "test" and about["models"]["up"]["model"] == "fake"
    assert {"secbatch", "torch", "transformers"} <= set(about["versions"])
    assert not any(pa.types.is_null(f.type) for f in pq.read_schema(file))


def test_a_new_column_and_kept_rows_share_one_schema(counter: Counter) -> None:
    write("a.csv", "text", "a")
    run_job(job())
    Path("in/a.csv").unlink()
    write("b.csv", "text,extra", "b,e")
    run_job(job())
    schemas = {str(pq.read_schema(file)) for file in Path("out/data").glob("*.parquet")}
    assert len({schema.split("-- schema metadata")[0] for schema in schemas}) == 1
    found = rows().sort_values("text")
    assert found["extra"].isna().tolist() == [True, False]


def test_input_that_takes_in_the_output_is_refused(counter: Counter) -> None:
    write("a.csv", "n,text", "1,word")
    out = job(input__path="in/**/*.parquet", output__path="in/out")
    run_job(job(output__path="in/out"))
    with pytest.raises(InputError, match="part of this job's output"):
        run_job(out)


def test_somebody_elses_data_is_refused_before_any_work(counter: Counter) -> None:
    write("a.csv", "n,text", "1,word")
    Path("out/data").mkdir(parents=True)
    with pytest.raises(UnfitOutputError, match="not made by secbatch"):
        run_job(job())
    assert counter.rows == 0 and [path.name for path in Path("out").iterdir()] == ["data"]
    Path("file").write_text("mine")
    with pytest.raises(UnfitOutputError, match="is a file; name a folder"):
        run_job(job(output__path="file"))


def test_uris_of_any_scheme_are_no_output(counter: Counter) -> None:
    write("a.csv", "n,text", "1,word")
    for uri in ("abfs://bucket/out", "https://host/out"):
        with pytest.raises(UnfitOutputError, match="not a local folder"):
            run_job(job(output__path=uri))
    assert [path.name for path in Path().iterdir()] == ["in"]


def test_a_file_does_not_take_the_place_of_its_input(counter: Counter) -> None:
    from secbatch.reporting import Silent
    from secbatch.single_file import run_into_file

    Path("in").mkdir()
    pq.write_table(pa.table({"text": ["word"]}), "in/a.parquet")
    for path in ("in/a.parquet", "in"):
        with pytest.raises(UnfitOutputError, match="a file of the input"):
            run_into_file(job(input__path=path), Path("in/a.parquet"), reporter=Silent())
    assert pq.read_schema("in/a.parquet").names == ["text"]


def test_the_rejects_beside_a_file_do_not_take_the_place_of_its_input(counter: Counter) -> None:
    """Whoever gives the rejects of a file back as input, into the same file, kept neither."""
    from secbatch.reporting import Silent
    from secbatch.single_file import run_into_file

    pq.write_table(pa.table({"text": ["word"]}), "rows.rejects.parquet")
    with pytest.raises(UnfitOutputError, match=r"where the rejects of 'rows\.parquet' go, is a file of the input"):
        run_into_file(job(input__path="rows.rejects.parquet"), Path("rows.parquet"), reporter=Silent())
    assert pq.read_schema("rows.rejects.parquet").names == ["text"] and not Path("rows.parquet").exists()
    result = run_into_file(job(input__path="rows.rejects.parquet"), Path("others.parquet"), reporter=Silent())
    assert result.enriched == 1 and Path("rows.rejects.parquet").exists()
    Path("folder.rejects.parquet").mkdir()
    with pytest.raises(UnfitOutputError, match=r"'folder\.rejects\.parquet', where the rejects .* go, is a folder"):
        run_into_file(job(input__path="rows.rejects.parquet"), Path("folder.parquet"), reporter=Silent())


def test_a_file_of_many_parts_has_all_rows_in_their_order(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    from secbatch.reporting import Silent
    from secbatch.single_file import run_into_file

    monkeypatch.setattr("secbatch.store.merge.PART_ROWS", 7)
    write("a.csv", "n,text", *(f"{n},word {n}" for n in range(50)))
    result = run_into_file(job(), Path("rows.parquet"), reporter=Silent())
    assert len(result.part_files) > 5 and not list(Path().glob(".rows*"))
    assert pd.read_parquet("rows.parquet")["n"].tolist() == [str(n) for n in range(50)]


def test_a_file_that_a_killed_run_has_put_there_leaves_no_second_name(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secbatch import single_file
    from secbatch.reporting import Silent

    put = single_file._concatenate

    def killed(files: list[Path], target: Path) -> None:
        put(files, target)
        raise KeyboardInterrupt

    write("a.csv", "n,text", "1,word")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(single_file, "_concatenate", killed)
        single_file.run_into_file(job(), Path("rows.parquet"), reporter=Silent())
    assert Path("rows.parquet").exists()
    single_file.run_into_file(job(), Path("rows.parquet"), reporter=Silent())
    assert sorted(path.name for path in Path().iterdir()) == ["in", "rows.parquet"]


def test_a_file_is_held_until_its_folder_is_gone(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run would go on from the folder that is about to be removed."""
    from secbatch import single_file
    from secbatch.reporting import Silent

    write("a.csv", "n,text", "1,word")
    put = single_file._concatenate

    def amid(files: list[Path], target: Path) -> None:
        with pytest.raises(OutputHeldError):
            single_file.run_into_file(job(), Path("rows.parquet"), reporter=Silent())
        put(files, target)

    monkeypatch.setattr(single_file, "_concatenate", amid)
    single_file.run_into_file(job(), Path("rows.parquet"), reporter=Silent())
    assert pd.read_parquet("rows.parquet")["n"].tolist() == ["1"] and not list(Path().glob(".rows*"))


def test_a_partition_value_too_long_for_a_folder_costs_its_row_only(counter: Counter) -> None:
    write("a.csv", "day,text", "x" * 300 + ",one", "b,two")
    result = run_job(job(output__partition_by=["day"]))
    found = pq.read_table("out/data", partitioning=None).to_pandas().set_index("text")
    assert result.rejected == 1 and found["secbatch_status"].to_dict() == {"one": "rejected", "two": "ok"}
    assert "cannot stand as a partition folder" in found.loc["one", "secbatch_error"]


def test_tasks_in_another_order_keep_one_schema(counter: Counter) -> None:
    up = {"type": "fill-mask", "model": "fake", "text": "text"}
    write("a.csv", "n,text", "1,one", "2,two")
    run_job(job(tasks={"up": up, "again": up}))
    write("b.csv", "n,text", "3,three")
    counter.rows = 0
    run_job(job(tasks={"again": up, "up": up}))
    assert counter.rows == 2  # two tasks over the new row
    schemas = {tuple(pq.read_schema(file).names) for file in Path("out/data").glob("*.parquet")}
    assert len(schemas) == 1


def test_a_version_amid_a_run_has_each_id_once(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    from secbatch.finished_shards import FinishedShards

    write("a.csv", "n,text", *(f"{n % 2},word {n}" for n in range(17)))
    monkeypatch.setattr("secbatch.finished_shards.PUBLISH_SECONDS", -1.0)
    shown: list[list[str]] = []
    publish = FinishedShards.publish

    def spy(self: FinishedShards, final: bool) -> None:
        publish(self, final)
        shown.append(rows()["n"].tolist())

    monkeypatch.setattr(FinishedShards, "publish", spy)
    run_job(job(input__id="n"))
    assert len(shown) > 3 and all(len(ids) == len(set(ids)) for ids in shown)


def test_wide_rows_go_in_smaller_shards(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "n,text", *(f"{n},word {n}" for n in range(100)))
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (8, 50))
    assert run_job(job(output__path="narrow")).shards == 3
    monkeypatch.setattr("secbatch.pacing.RESULT_BYTES", 20_000)
    monkeypatch.setattr(UpperTask, "row_bytes", 500, raising=False)
    task = {"type": "fill-mask", "model": "fake", "text": "text"}
    two = run_job(job(output__path="wide", tasks={"up": task, "more": task}))  # 20 rows of two times 500 bytes
    assert (two.shards, two.enriched) == (1 + 5, 100)
    assert rows("wide")["n"].tolist() == rows("narrow")["n"].tolist()
