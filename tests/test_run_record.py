"""What a run leaves behind for people and machines, and that no secret is in it."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked_trial
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fake_task import Counter, UpperTask, install_in
from tiny_models import bert_tokenizer
from transformers import FNetConfig, FNetModel

from secbatch import trial
from secbatch.errors import InputError, Interrupted, OutputError
from secbatch.job import Job
from secbatch.models.resolved import ResolvedModel
from secbatch.poison import Poison
from secbatch.run_record import COUNTS
from secbatch.runner import RunResult, run_job
from secbatch.stages import STAGES, StageClock
from secbatch.store.ledger import Ledger

LATEST = Path("out/_secbatch/runs/latest.json")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (2, 3))


def job(path: str = "in.csv", **tasks: Any) -> Job:
    tasks = tasks or {"up": {"type": "fill-mask", "model": "fake", "text": "text"}}
    values = {"name": "test", "input": {"path": path}, "tasks": tasks, "output": {"path": "out"}}
    return Job.model_validate(values)


def test_the_record_of_a_finished_run(counter: Counter) -> None:
    Path("in.csv").write_text("text,n\na,1\nPOISON,2\nb,3\nb,3,4\nc,5\n")
    result = run_job(job(), limit=None)
    record = json.loads(LATEST.read_text())
    assert record == json.loads((LATEST.parent / f"{result.run}.json").read_text())
    assert (record["schema"], record["state"], record["exit_code"], record["error"]) == (1, "finished", 3, None)
    assert set(COUNTS) < set(record["counts"])
    counts = record["counts"]
    assert (counts["read"], counts["enriched"], counts["reused"]) == (4, 4, 0)
    assert (counts["rejected"], counts["unparseable"], counts["done"]) == (1, 1, {"up": 3})
    assert set(record["timings"]) == set(STAGES)
    assert all(0 <= seconds <= record["seconds"] for seconds in record["timings"].values())
    assert record["rows_per_second"] == pytest.approx(4 / record["seconds"], rel=0.1)
    assert record["output"] == {"path": "out", "version": result.version, "published": True}
    assert record["models"]["up"]["weights"] == "0" * 64 and set(record["versions"]) > {"secbatch", "torch"}
    assert Job.model_validate(record["job"]) == job()
    assert record["device"] and record["precision"] and record["folder"] == str(Path.cwd())
    assert not Path("out/_secbatch/progress.json").exists()


def every_row_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    enter = Poison.__enter__

    def entered(self: Poison) -> Poison:
        enter(self)
        self._trial = trial.Trial(self._worker, self._compute.device, self._compute.dtype)
        return self

    monkeypatch.setattr(Poison, "__enter__", entered)
    monkeypatch.setattr(Poison, "suspected", lambda self, keys: True)
    monkeypatch.setattr(trial, "start", forked_trial.start)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_record_tells_what_each_model_was_computed_in(
    tiny: Callable[[str], ResolvedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """FNet's Fourier transform knows no bfloat16, which the others have. `elsewhere`: in a process of their own."""
    if elsewhere:
        every_row_suspected(monkeypatch)
    monkeypatch.chdir(tmp_path)
    FNetModel(FNetConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, intermediate_size=64)).save_pretrained(
        "f"
    )
    bert_tokenizer().save_pretrained("f")
    Path("in.csv").write_text("text\nA phishing mail\n")
    models = {"one": "f", "two": str(tiny("roberta").folder)}
    tasks = {name: {"type": "embed", "model": model, "text": "text"} for name, model in models.items()}
    asked = job(**tasks).model_copy(update={"precision": "bfloat16", "device": "cpu"})
    for loaded in (True, False):  # the second time there is nothing to do
        result, record = run_job(asked), json.loads(LATEST.read_text())
        assert any("it is computed in float32" in text for text in result.notices) == loaded
        assert result.precision == record["precision"] == ("float32, bfloat16" if loaded else "bfloat16")
        computed_in = [record["models"][name]["precision"] for name in models]
        assert computed_in == (["float32", "bfloat16"] if loaded else [None, None])


def test_the_record_of_a_run_that_was_interrupted_or_failed(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.csv").write_text("text\na\nb\nc\n")
    told: list[RunResult] = []

    def stopped(self: UpperTask, encoded: Any) -> Any:
        raise Interrupted("stopped by a test")

    with monkeypatch.context() as patch:
        patch.setattr(UpperTask, "compute", stopped)
        with pytest.raises(Interrupted):
            run_job(job(), ended=told.append)
    record = json.loads(LATEST.read_text())
    assert (record["state"], record["exit_code"], record["error"]) == ("interrupted", 130, "stopped by a test")
    assert told[0].exit_code == 130
    run_job(job(), ended=told.append)
    assert told[1].state == "finished"
    Path("in.csv").unlink()
    with pytest.raises(InputError):
        run_job(job(), ended=told.append)
    record = json.loads(LATEST.read_text())  # a night that found no input is on the record too
    assert (record["state"], record["exit_code"]) == ("failed", 2)
    assert "does not exist" in record["error"]
    assert told[2].error == record["error"]
    assert record["output"] == {"path": "out", "version": told[1].version, "published": False}  # what readers see still
    assert (record["counts"]["rows_in_dataset"], record["counts"]["read"]) == (3, 0)


def test_what_stopped_a_run_is_said_where_the_ledger_cannot_note_its_end(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.csv").write_text("text\na\nb\nc\n")
    told: list[RunResult] = []

    def refused(*_: object) -> None:
        raise OutputError("the ledger's own")

    for cause in ("the first cause", "the ledger's own"):

        def failing(self: UpperTask, encoded: Any, cause: str = cause) -> Any:
            raise OutputError(cause)

        with monkeypatch.context() as patch:
            patch.setattr(UpperTask, "compute", failing)
            patch.setattr(Ledger, "end_run", refused)
            with pytest.raises(OutputError, match=cause):
                run_job(job(), ended=told.append)
        record = json.loads(LATEST.read_text())
        assert (record["state"], record["exit_code"], record["error"]) == ("failed", 1, cause)
        also = [text for text in told.pop().notices if "the ledger's own" in text]
        assert also == (["How the run ended could not be noted: the ledger's own"] if "first" in cause else [])
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "end_run", refused)
        with pytest.raises(OutputError, match="the ledger's own"):
            run_job(job())
    assert run_job(job()).reused == 3


def test_a_first_run_that_shows_less_than_before_tells_what_is_shown(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.csv").write_text("text\na\nb\nc\nd\ne\nf\n")
    compute = UpperTask.compute

    def stopping(self: UpperTask, encoded: Any) -> Any:
        if counter.rows >= 4:
            raise Interrupted("stopped by a test")
        return compute(self, encoded)

    monkeypatch.setattr(UpperTask, "compute", stopping)
    for seconds in (0.0, 600.0):  # each shard is shown; only the first one is, of those that are done
        monkeypatch.setattr("secbatch.finished_shards.PUBLISH_SECONDS", seconds)
        with pytest.raises(Interrupted):
            run_job(job())
        record = json.loads(LATEST.read_text())
        shown = pq.read_table("out/data").num_rows
        assert shown == 5 and record["counts"]["rows_in_dataset"] == shown


def test_no_secret_is_left_anywhere(counter: Counter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "a.csv").write_text("text,n\na,1\nb,2,3\nc,3\n")
    (folder / "b.csv").write_text("")
    (folder / "c.bin").write_text("")
    local = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
    monkeypatch.setattr("secbatch.sources.paths.from_uri", lambda uri: (local, ""))
    said: list[str] = []

    class Listener:
        def notice(self, text: str) -> None:
            said.append(text)

        def progress(self, rows: int, rejected: int, fraction: float) -> None:
            return

    path = "s3://KEY:SECRET/x@bucket/?secret_key=SECRET&region=eu"
    run_job(job(path), reporter=Listener())
    with pytest.raises(InputError) as refused:
        run_job(job(path.replace("/?", "/*.gone?")), reporter=Listener())
    assert "SECRET" not in str(refused.value)
    assert any("s3://***@bucket" in text for text in said)
    assert not any("SECRET" in text for text in said)
    shown = pq.read_table("out/data")
    assert set(shown.column("secbatch_source").to_pylist()) == {"s3://***@bucket/a.csv"}
    left = [p for p in Path("out").rglob("*") if p.is_file() and "SECRET" in p.read_bytes().decode("latin-1")]
    assert not left
    with sqlite3.connect("out/_secbatch/ledger.sqlite") as ledger:
        assert not [row for row in ledger.iterdump() if "SECRET" in row]
    for file in Path("out/_secbatch").rglob("*.parquet"):
        assert "SECRET" not in str(pq.read_table(file).to_pylist())
        assert b"SECRET" not in (pq.read_schema(file).metadata or {}).get(b"secbatch", b"")
    # Another password is another job as far as resuming goes: the hash of what is hidden counts.
    assert json.loads(LATEST.read_text())["job"]["input"]["path"] == "s3://***@bucket/*.gone?secret_key=***&region=eu"


def test_the_clock_adds_up_stages_that_overlap() -> None:
    clock = StageClock()
    with clock("device"), clock("finish"):
        assert clock.doing() == ["device", "finish"]
        assert clock.seconds()["device"] > 0
    assert clock.doing() == []
    assert list(clock.each("read", iter("abc"))) == list("abc")
    assert clock.seconds()["read"] > 0 == clock.seconds()["publish"]
