"""A nightly job that names a promoted model: after a promotion, that task's columns change and nothing else."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import make_bert, make_roberta

from secbatch.cli.main import _run
from secbatch.errors import Interrupted, ModelError
from secbatch.job import Job
from secbatch.promotion import promote, roll_back
from secbatch.runner import RunResult, run_job
from secbatch.worker import Work, Worker


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _night(other: Path, max_recompute: int | None = None) -> RunResult:
    values = {
        "name": "nightly",
        "input": {"path": "in.csv", "id": ["n"]},
        "tasks": {
            "mask": {"type": "fill-mask", "model": "words", "text": "text"},
            "vec": {"type": "embed", "model": str(other), "text": "text"},
        },
        "output": {"path": "out"},
        "device": "cpu",
        "max_recompute": max_recompute,
    }
    return run_job(Job.model_validate(values))


def _columns() -> dict[str, bytes]:
    """Every column's bytes, in the order of the rows' ids."""
    table = pq.read_table("out/data").sort_by("n").combine_chunks()
    return {name: b"".join(_bytes(chunk) for chunk in table[name].chunks) for name in table.column_names}


def _bytes(array: pa.Array) -> bytes:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return b"".join(bytes(buffer) for buffer in array.buffers() if buffer)


def test_only_the_promoted_tasks_columns_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (make_bert(tmp_path / f"words{seed}", seed) for seed in (0, 1))
    other = make_roberta(tmp_path / "other")
    Path("in.csv").write_text("n,text\n" + "".join(f"{n},Attack {n} uses <mask> in files.\n" for n in range(40)))
    one = promote("words", str(first)).record.current
    night = _night(other)
    before = _columns()
    assert _night(other).enriched == 0

    two = promote("words", str(second)).record.current
    with pytest.raises(Exception, match="max_recompute"):
        _night(other, max_recompute=10)
    again = _night(other)
    after = _columns()
    changed = {name for name in before if before[name] != after[name]}
    assert {"mask_predictions", "mask_top", "mask_score"} <= changed
    assert changed <= {"mask_predictions", "mask_top", "mask_score", "secbatch_run"}
    assert _night(other).enriched == 0

    records = [json.loads(Path(f"out/_secbatch/runs/{run.run}.json").read_text())["models"] for run in (night, again)]
    assert [record["mask"]["promoted"] for record in records] == [one, two]
    assert [record["mask"]["model"] for record in records] == ["words", "words"]
    assert records[0]["vec"] == records[1]["vec"] and records[0]["vec"]["promoted"] is None
    (footer,) = {pq.read_schema(path).metadata[b"secbatch"] for path in Path("out/data").iterdir()}
    assert json.loads(footer)["models"]["mask"]["promoted"] == two

    # a new row, and one file of an input that is gone: each row names the run, and so the model, that it came of
    Path("in.csv").write_text("n,text\n40,Attack 40 uses <mask> in files.\n")
    last = _night(other)
    runs = {
        row["n"]: row["secbatch_run"] for row in pq.read_table("out/data", columns=["n", "secbatch_run"]).to_pylist()
    }
    assert runs["39"] == again.run and runs["40"] == last.run
    assert _run(["show", "out", "--models", "--rows", "1"]) == 0
    assert f"Models: mask = words {two[:12]}, vec = {other} (weights " in capsys.readouterr().out


def test_rolling_back_gives_the_columns_of_before(tmp_path: Path) -> None:
    first, second = (make_bert(tmp_path / f"words{seed}", seed) for seed in (0, 1))
    other = make_roberta(tmp_path / "other")
    Path("in.csv").write_text("n,text\n1,Attack uses <mask> in files.\n")
    promote("words", str(first))
    _night(other)
    before = _columns()
    promote("words", str(second))
    _night(other)
    assert _columns()["mask_predictions"] != before["mask_predictions"]
    roll_back("words")
    assert _night(other).enriched == 0  # a version that is still kept has these rows
    assert _columns() == before


def test_a_night_that_is_stopped_and_goes_on_after_a_promotion_has_the_new_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (make_bert(tmp_path / f"words{seed}", seed) for seed in (0, 1))
    other = make_roberta(tmp_path / "other")
    Path("in.csv").write_text("n,text\n" + "".join(f"{n},Attack {n} uses <mask> in files.\n" for n in range(60)))
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (7, 10))
    promote("words", str(first))
    compute, shards = Worker.compute, iter(range(100))

    def stopped(worker: Worker, work: Work) -> Work:
        if next(shards) == 3:
            raise KeyboardInterrupt
        return compute(worker, work)

    monkeypatch.setattr(Worker, "compute", stopped)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        _night(other)
    monkeypatch.setattr(Worker, "compute", compute)
    version = promote("words", str(second)).record.current
    night = _night(other)
    record = json.loads(Path(f"out/_secbatch/runs/{night.run}.json").read_text())
    assert record["models"]["mask"]["promoted"] == version
    resumed = _columns()
    shutil.rmtree("out")
    _night(other)
    fresh = _columns()
    assert {name for name in fresh if fresh[name] != resumed[name]} == {"secbatch_run"}


def test_the_same_weights_under_a_promoted_name_cost_nothing(tmp_path: Path) -> None:
    folder, other = make_bert(tmp_path / "words"), make_roberta(tmp_path / "other")
    Path("in.csv").write_text("n,text\n1,Attack uses <mask> in files.\n")
    promote("words", str(folder))
    _night(other)
    (folder / "README.md").write_text("A better model card.")
    assert promote("words", str(folder)).record.earlier
    assert _night(other).enriched == 0


def test_a_damaged_promoted_model_stops_the_night_before_any_row(tmp_path: Path) -> None:
    folder, other = make_bert(tmp_path / "words"), make_roberta(tmp_path / "other")
    Path("in.csv").write_text("n,text\n1,Attack uses <mask> in files.\n")
    place = promote("words", str(folder)).folder
    _night(other)
    weights = place / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors in .* was changed"):
        _night(other)
    assert pq.read_table("out/data").num_rows == 1
