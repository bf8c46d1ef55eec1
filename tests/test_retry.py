"""`secbatch retry`: the rejected rows, and only those; and what counts as too many."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import Counter, UpperTask, install

from secbatch.cli.main import _run
from secbatch.jobfile import load_job
from secbatch.recorded_job import recorded_job
from secbatch.run_identity import described
from secbatch.run_options import RunOptions
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger, same_job
from secbatch.store.lock import hold
from secbatch.task_specs import Classify
from secbatch.tasks.base import TaskColumns

JOB = "name: night\ninput: {path: in}\ntasks: {up: {type: fill-mask, model: fake, text: text}}\noutput: {path: out}\n"


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("job.yaml").write_text(JOB)
    Path("in/a.csv").write_text("text,n\na,1\nPOISON,2\nb,3,extra\nc,4\n")
    Path("in/b.csv").write_text("text,n\nd,5\nPOISON,6\n")
    return install(monkeypatch)


def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the task can do all rows."""

    def finish(self: UpperTask, computed: Any) -> TaskColumns:
        return TaskColumns({self.name: computed}, {}, tokens=len(computed))

    monkeypatch.setattr(UpperTask, "finish", finish)


def status() -> dict[str, str]:
    rows = pd.read_parquet("out/data")
    return dict(zip(rows["n"], rows["secbatch_status"], strict=True))


def test_only_rejected_rows_are_done_again(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _run(["run", "job.yaml"]) == 3
    assert status() == {"1": "ok", "2": "rejected", "4": "ok", "5": "ok", "6": "rejected"}
    counter.rows = 0
    assert _run(["run", "job.yaml"]) == 3  # a plain run leaves them
    assert counter.rows == 0
    assert _run(["retry", "out"]) == 3  # the cause is still there
    assert counter.rows == 2 and list(status().values()).count("rejected") == 2
    mended(monkeypatch)
    Path("in/a.csv").write_text("text,n\na,1\nPOISON,2\nb,3\nc,4\n")
    counter.rows = 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the job's paths start where it was run
    capsys.readouterr()
    assert _run(["retry", "../out", "--log-format", "json"]) == 0
    summary = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (counter.rows, summary["enriched"], summary["reused"], summary["unparseable"]) == (3, 3, 3, 0)
    assert Path.cwd() == tmp_path
    assert status() == dict.fromkeys("123456", "ok")
    assert _run(["run", "job.yaml"]) == 0
    assert counter.rows == 3


CLASSIFY = "{type: classify, model: fake, text: text, template: '{text} <mask>', labels: [phish, bot]}"
TWO_TASKS = JOB.replace("tasks: {", f"tasks: {{z: {CLASSIFY}, ")


def test_tasks_and_labels_keep_their_order_in_a_retry(counter: Counter) -> None:
    Path("job.yaml").write_text(TWO_TASKS)
    Path("in/a.csv").write_text("text,n\na,1\n")
    Path("in/b.csv").unlink()
    assert _run(["run", "job.yaml"]) == 0
    columns, version = list(pd.read_parquet("out/data")), Path("out/data").resolve()
    assert columns[2:4] == ["z", "up"]
    assert _run(["retry", "out"]) == 0
    assert list(pd.read_parquet("out/data")) == columns
    assert Path("out/data").resolve() == version  # in another order all rows would be written anew
    task = recorded_job(Layout(Path("out"))).job.tasks["z"]
    assert isinstance(task, Classify) and list(task.labels or {}) == ["phish", "bot"]


def test_jobs_whose_tasks_stand_in_another_order_are_the_same(counter: Counter) -> None:
    Path("job.yaml").write_text(TWO_TASKS)
    job = load_job("job.yaml")
    turned = job.model_copy(update={"tasks": dict(reversed(job.tasks.items()))})
    assert described(job, RunOptions()) != described(turned, RunOptions())
    assert same_job(described(job, RunOptions()), described(turned, RunOptions()))
    assert not same_job(described(job, RunOptions()), described(job, RunOptions(limit=3)))


@pytest.mark.parametrize("removed", ["keep", "mark", "drop"])
@pytest.mark.parametrize("named", ["", ", id: n"])
def test_a_mended_row_takes_the_place_of_the_rejected_one(counter: Counter, named: str, removed: str) -> None:
    job = JOB.replace("path: in}", f"path: in, types: {{n: int64}}{named}}}")
    Path("job.yaml").write_text(job.replace("path: out", f"path: out, removed: {removed}"))
    Path("in/a.csv").write_text("text,n\na,1\nb,two\nc,3\n")
    Path("in/b.csv").write_text("text,n\nd,4\n")
    assert _run(["run", "job.yaml"]) == 3
    Path("in/a.csv").write_text("text,n\na,1\nb,2\n")  # the row is mended; another one is not there any more
    Path("in/b.csv").unlink()
    assert _run(["retry", "out"]) == 0
    assert status() == dict.fromkeys([1, 2, 3, 4], "ok")  # nothing counts as removed
    assert len(pd.read_parquet("out/data")) == 4


@pytest.mark.parametrize("mode", ["overwrite", "fail-if-exists"])
@pytest.mark.parametrize("named", [[], ["--job", "job.yaml"]])
def test_a_retry_keeps_what_is_done_whatever_the_mode_of_the_job(counter: Counter, mode: str, named: list[str]) -> None:
    Path("job.yaml").write_text(JOB.replace("path: out", f"path: out, mode: {mode}"))
    assert _run(["run", "job.yaml"]) == 3
    counter.rows = 0
    assert _run(["retry", "out", *named]) == 3
    assert counter.rows == 2 and len(status()) == 5


def test_a_file_that_is_gone_meanwhile_removes_nothing(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("job.yaml").write_text(JOB.replace("path: out", "path: out, removed: drop"))
    _run(["run", "job.yaml"])
    Path("in/a.csv").unlink()
    mended(monkeypatch)
    assert _run(["retry", "out"]) == 0
    assert status() == {"1": "ok", "2": "rejected", "4": "ok", "5": "ok", "6": "ok"}


def test_what_cannot_be_retried_is_one_sentence(
    counter: Counter, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(["retry", "absent"]) == 2
    assert "holds no dataset" in capsys.readouterr().err and not Path("absent").exists()
    Path("one.parquet").touch()
    assert _run(["retry", "one.parquet"]) == 2
    assert "is a file" in capsys.readouterr().err
    _run(["run", "job.yaml"])
    for record in Path("out/_secbatch/runs").glob("*.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), "folder": "/no/such/folder"}))
    assert _run(["retry", "out"]) == 2
    assert "/no/such/folder" in capsys.readouterr().err
    assert _run(["retry", "out", "--job", "job.yaml"]) == 3


@pytest.mark.parametrize(
    ("max_rejects", "code"),
    [("3", 0), ("2", 3), ("50%", 0), ("49%", 3), ("0", 3), ("0%", 3), ("100%", 0), ("49.9%", 3)],
)
def test_max_rejects_is_a_count_or_a_share_of_all_that_was_read(counter: Counter, max_rejects: str, code: int) -> None:
    # 5 rows and one piece that is none; two rows are rejected: 3 of 6.
    assert _run(["run", "job.yaml", "--set", f"max_rejects={max_rejects}"]) == code


@pytest.mark.parametrize("wrong", ["-1", "1.5", "101%", "nan%", "inf", "%", "x", "1e2", "true", "null", "[1]", "-0.1%"])
def test_what_max_rejects_cannot_be(counter: Counter, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", "job.yaml", "--set", f"max_rejects={wrong}"]) == 2
    assert "max_rejects must be a count such as 100 or a percentage such as 1%" in capsys.readouterr().err


def test_no_rejects_at_all_under_a_limit_of_none(counter: Counter) -> None:
    Path("in/a.csv").write_text("text,n\n")
    Path("in/b.csv").write_text("text,n\n")
    assert _run(["run", "job.yaml", "--set", "max_rejects=0"]) == 0  # no rows at all: none is rejected


def test_a_second_enrich_with_other_tasks_drops_no_columns(
    counter: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["enrich", "in/b.csv", "-o", "out", "--mask", "text", "--mask-model", "fake"]
    other = ["enrich", "in/b.csv", "-o", "out", "--embed", "n", "--mask-model", "fake"]
    assert _run([*first, "--max-rejects", "5"]) == 0
    assert _run(other) == 2
    assert "has the columns of task 'mask', which this command would drop" in capsys.readouterr().err
    assert "mask" in pd.read_parquet("out/data")
    counter.rows = 0
    assert _run([*first, "--embed", "n", "--max-rejects", "5"]) == 0
    assert {"mask", "vec"} <= set(pd.read_parquet("out/data")) and counter.rows == 3  # two, and the rejected one


def test_a_task_that_goes_from_a_job_is_said(counter: Counter, capsys: pytest.CaptureFixture[str]) -> None:
    _run(["run", "job.yaml", "--set", "tasks.more={type: fill-mask, model: fake, text: n}"])
    capsys.readouterr()
    _run(["run", "job.yaml"])
    assert "Task 'more' is no longer in the job; its columns go from the dataset." in capsys.readouterr().err
    assert "more" not in pd.read_parquet("out/data")


@pytest.mark.parametrize("ledger", ["none yet", "empty", "without a run"])
def test_a_first_run_that_has_just_started_holds_the_output(
    counter: Counter, capsys: pytest.CaptureFixture[str], ledger: str
) -> None:
    layout = Layout(Path("out"))
    with hold(layout.lock):
        if ledger == "empty":
            layout.ledger.touch()
        elif ledger == "without a run":
            Ledger(layout.ledger).close()
        assert _run(["retry", "out"]) == 75
        assert "Another run holds output 'out'" in capsys.readouterr().err
    assert _run(["retry", "out"]) in (1, 2)


@pytest.mark.parametrize(
    ("folder", "said"),
    [("/gone", "(No such file or directory)"), ("a\0b", "(embedded null"), ("\ud800", "('utf-8' codec can't encode")],
)
def test_a_working_folder_that_the_record_names_and_nobody_can_enter(
    folder: str, said: str, counter: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["run", "job.yaml"]) == 3
    (record,) = (file for file in Path("out/_secbatch/runs").glob("*.json") if file.name != "latest.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"folder": folder}))
    capsys.readouterr()
    assert _run(["retry", "out"]) == 2
    told = capsys.readouterr().err
    assert "that folder cannot be entered" in told and said in told and "name its file with --job" in told


def test_a_record_that_was_damaged_names_no_folder(counter: Counter) -> None:
    assert _run(["run", "job.yaml"]) == 3
    for file in Path("out/_secbatch/runs").glob("*.json"):
        file.write_text("[" * 100_000)
    assert _run(["retry", "out"]) == 3
