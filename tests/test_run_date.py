"""`{run_date}` in the output's path and as a partition; `--until`; both with clocks of the test's own."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import Counter, UpperTask, install
from nights import LINES, WITH_ID, job, write

from secbatch import run_identity
from secbatch.cli.main import _run
from secbatch.errors import Interrupted, JobError
from secbatch.jobfile import validate
from secbatch.planning import plan_job
from secbatch.run_options import RunOptions, next_time
from secbatch.runner import run_job

DATED = {"path": "nights/{run_date}"}
PARTITIONED = {"path": "out", "partition_by": ["night={run_date}"]}


class Clock(datetime):
    """What a run's start is read from."""

    moment = datetime(2026, 11, 25, 23, 59, 59).astimezone()

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return cls.moment


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (10, 20))
    monkeypatch.setattr("secbatch.run_identity.datetime", Clock)
    at(25)
    write("a.csv", "id,text,note", *LINES)
    return install(monkeypatch)


def at(day: int, hour: int = 23) -> None:
    Clock.moment = datetime(2026, 11, day, hour, 59, 59, tzinfo=UTC)


def stop_at(rows: int, monkeypatch: pytest.MonkeyPatch, counter: Counter) -> None:
    """A run is interrupted once its task was given that many rows, and the clock is past midnight by then."""
    compute = UpperTask.compute

    def stopping(self: UpperTask, encoded: Any) -> Any:
        if counter.rows >= rows:
            at(26, 0)
            raise Interrupted("stopped")
        return compute(self, encoded)

    monkeypatch.setattr(UpperTask, "compute", stopping)


def days() -> list[str]:
    return sorted(path.name for path in Path("nights").iterdir())


def test_each_day_has_its_dataset_and_runs_of_a_day_share_it(counter: Counter) -> None:
    dated = job(input=WITH_ID, output=DATED)
    assert run_job(dated).output == "nights/2026-11-25"
    assert run_job(dated).enriched == 0
    assert plan_job(dated).reused_rows == 100
    at(26)
    assert plan_job(dated).reused_rows == 0
    result = run_job(dated)
    assert (result.enriched, result.output) == (100, "nights/2026-11-26")
    assert not any("did not finish" in text for text in result.notices)
    assert days() == ["2026-11-25", "2026-11-26"]


def test_a_run_that_goes_on_after_midnight_keeps_its_day(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    dated = job(input=WITH_ID, output={**DATED, "partition_by": ["night={run_date}"]})
    with monkeypatch.context() as patch:
        stop_at(30, patch, counter)
        with pytest.raises(Interrupted):
            run_job(dated)
    assert run_identity.new_run_id().startswith("20261126T")
    result = run_job(dated)
    assert days() == ["2026-11-25"] and result.run.startswith("20261125T") and counter.rows == 100
    assert any("The run of 2026-11-25 did not finish: it goes on" in text for text in result.notices)
    assert set(pd.read_parquet("nights/2026-11-25/data")["night"].astype(str)) == {"2026-11-25"}
    run_job(dated)
    assert days() == ["2026-11-25", "2026-11-26"]


def test_another_job_does_not_go_on_with_a_run(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(30, patch, counter)
        with pytest.raises(Interrupted):
            run_job(job(input=WITH_ID, output=DATED))
    run_job(job(name="other", input=WITH_ID, output=DATED))
    assert days() == ["2026-11-25", "2026-11-26"]


def test_a_partition_is_the_day_of_the_run_that_enriched_the_row(counter: Counter) -> None:
    partitioned = job(input=WITH_ID, output=PARTITIONED)
    run_job(partitioned)
    at(26)
    write("a.csv", "id,text,note", "new,a new row,", *LINES[:50], "50,changed,", *LINES[51:])
    assert run_job(partitioned).enriched == 2
    seen = pd.read_parquet("out/data")
    assert len(seen) == 101
    later = seen[seen["night"].astype(str) == "2026-11-26"]
    assert sorted(later["id"]) == ["50", "new"]
    assert (seen["secbatch_run"].str[:8] == seen["night"].astype(str).str.replace("-", "")).all()
    assert {path.name for path in Path("out/data").resolve().iterdir()} == {"night=2026-11-25", "night=2026-11-26"}


def test_a_plan_measures_rows_that_go_into_the_partition_of_its_day(counter: Counter) -> None:
    plan = plan_job(job(input=WITH_ID, output=PARTITIONED))
    assert plan.todo_rows == 100 and plan.probed_rows and plan.seconds


@pytest.mark.parametrize(
    "entries", [["{run_date}x"], ["{run_date}"], ["a={run_date}", "b={run_date}"], ["a={run_date}={run_date}"]]
)
def test_a_partition_without_a_column_is_refused(entries: list[str]) -> None:
    values = job().model_dump(mode="json")
    values["output"]["partition_by"] = entries
    with pytest.raises(JobError, match=r"night=\{run_date\}"):
        validate(values, "job.yaml")


def test_a_column_of_the_input_is_not_replaced(counter: Counter) -> None:
    with pytest.raises(JobError, match="note"):
        run_job(job(input=WITH_ID, output={"path": "out", "partition_by": ["note={run_date}"]}))


def test_until_stops_at_a_checkpoint_and_says_what_is_left(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock shows the time once 30 rows are through."""
    monkeypatch.setattr("secbatch.shard_stages.time.time", lambda: 1000.0 if counter.rows < 30 else 2000.0)
    plain = job(input=WITH_ID)
    with pytest.raises(Interrupted, match=r"with \d+ rows done and about \d+% of the input left; run the same") as stop:
        run_job(plain, options=RunOptions(until=2000.0))
    assert stop.value.exit_code == 130 and counter.rows == 30
    record = json.loads(Path("out/_secbatch/runs/latest.json").read_text())
    assert (record["state"], record["exit_code"]) == ("interrupted", 130)
    result = run_job(plain)
    assert (counter.rows, result.reused, result.rows_in_dataset) == (100, 30, 100)


def test_the_next_time_a_clock_shows() -> None:
    evening = datetime(2026, 11, 25, 22, 30).astimezone()
    assert next_time("06:00", evening) == datetime(2026, 11, 26, 6, 0).astimezone().timestamp()
    assert next_time("23:00", evening) == datetime(2026, 11, 25, 23, 0).astimezone().timestamp()
    assert next_time("22:30", evening) == datetime(2026, 11, 26, 22, 30).astimezone().timestamp()
    for wrong in ("25:00", "6 am", ""):
        with pytest.raises(JobError, match="takes a time of day such as 06:00"):
            next_time(wrong, evening)


@pytest.mark.parametrize("with_job", [False, True])
def test_retry_of_a_day_goes_into_that_day(counter: Counter, with_job: bool) -> None:
    Path("job.yaml").write_text(
        "name: dated\ninput: {path: in, id: [id]}\ntasks: {up: {type: fill-mask, model: fake, text: text}}\n"
        "output: {path: 'nights/{run_date}', partition_by: ['night={run_date}']}\nmax_rejects: 100%\n"
    )
    write("a.csv", "id,text,note", *LINES[:5], "bad,poison,")
    assert _run(["run", "job.yaml"]) == 0
    at(26)
    counter.rows = 0
    asked = ["retry", "nights/2026-11-25", *(["--job", "job.yaml"] if with_job else [])]
    assert _run(asked) == 0 and counter.rows == 1
    assert days() == ["2026-11-25"]
    seen = pd.read_parquet("nights/2026-11-25/data").set_index("id")
    assert seen["night"].astype(str)["bad"] == "2026-11-26" and set(seen["night"].astype(str)[:5]) == {"2026-11-25"}
    assert _run(["run", "job.yaml"]) == 0 and days() == ["2026-11-25", "2026-11-26"]


def test_enrich_into_a_dated_folder_and_a_dated_file(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["enrich", "in/a.csv", "--mask", "text", "--mask-model", "fake", "-o"]
    assert _run([*command, "nights/{run_date}"]) == 0 and days() == ["2026-11-25"]
    assert _run([*command, "file-{run_date}.parquet"]) == 0
    assert len(pd.read_parquet("file-2026-11-25.parquet")) == 100
    with monkeypatch.context() as patch:
        stop_at(counter.rows + 30, patch, counter)
        at(26)
        assert _run([*command, "file-{run_date}.parquet"]) == 130
    at(27)
    assert _run([*command, "file-{run_date}.parquet"]) == 0  # goes on, into the file of its day
    assert sorted(path.name for path in Path().glob("*.parquet")) == [
        "file-2026-11-25.parquet",
        "file-2026-11-26.parquet",
    ]
    assert not list(Path().glob(".file*"))
    capsys.readouterr()
    command[1] = "file-*.parquet"
    at(26)
    assert _run([*command, "file-{run_date}.parquet"]) == 2
    assert "'file-2026-11-26.parquet' is a file of the input" in capsys.readouterr().err


def test_a_dated_file_whose_run_was_stopped_while_it_tidied_up_comes_the_next_day(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["enrich", "in/a.csv", "--mask", "text", "--mask-model", "fake", "-o", "file-{run_date}.parquet"]

    def stopped(*_: Any) -> None:
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("secbatch.publishing.Publisher.clear", stopped)
        assert _run(command) == 130
    at(26)
    assert _run(command) == 0
    assert [path.name for path in Path().glob("*.parquet")] == ["file-2026-11-25.parquet"]  # its rows are that day's
    assert counter.rows == 100
    assert _run(command) == 0
    assert len(pd.read_parquet("file-2026-11-26.parquet")) == 100
    assert not list(Path().glob(".*.secbatch"))
