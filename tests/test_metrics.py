"""`--metrics-file`: what Prometheus reads after a good night, a bad one and none at all."""

import os
import sys
from pathlib import Path

import pytest
from fake_task import Counter, install

from secbatch.cli.main import _run
from secbatch.store.lock import hold

pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")

FILE = Path("secbatch.prom")
SUCCESS = "secbatch_last_success_timestamp_seconds"


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    job = "name: night\ninput: {path: in}\ntasks: {up: {type: fill-mask, model: fake, text: text}}\n"
    Path("job.yaml").write_text(job + "output: {path: out}\n")
    Path("in").mkdir()
    Path("in/a.csv").write_text("text,n\na,1\nb,2\nc,3\n")
    return install(monkeypatch)


def night() -> int:
    return _run(["run", "job.yaml", "--metrics-file", str(FILE)])


def samples() -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families

    found = {}
    for family in text_string_to_metric_families(FILE.read_text()):
        assert family.documentation and family.name.startswith("secbatch_")
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "job_name"}
            assert sample.name == "secbatch_build_info" or sample.labels["job_name"] == "night"
            found[sample.name + "".join(f"[{value}]" for value in labels.values())] = sample.value
    return found


def test_good_nights_and_bad_ones(counter: Counter) -> None:
    assert night() == 0
    first = samples()
    assert first["secbatch_rows_total[enriched]"] == first["secbatch_last_run_rows[read]"] == 3
    assert first["secbatch_last_run_exit_code"] == 0 and first["secbatch_runs_total[0]"] == 1
    assert first["secbatch_runs_total[75]"] == 0  # `increase` sees a step from 0, and not a series that begins at 1
    assert first["secbatch_dataset_rows"] == 3 and first["secbatch_dataset_version"] == 1
    assert first["secbatch_run_duration_seconds"] >= first["secbatch_stage_duration_seconds[device]"]
    assert night() == 0
    second = samples()
    assert second["secbatch_rows_total[enriched]"] == 3 and second["secbatch_rows_total[reused]"] == 3
    assert second["secbatch_runs_total[0]"] == 2 and second[SUCCESS] > first[SUCCESS]
    Path("in/b.csv").write_text("text,n\nd,4\ne,5,6\n")
    assert night() == 3
    third = samples()
    assert third["secbatch_last_run_exit_code"] == 3 and third[SUCCESS] == second[SUCCESS]
    assert third["secbatch_last_run_rows[unparseable]"] == third["secbatch_runs_total[3]"] == 1
    Path("in").rename("elsewhere")
    assert night() == 2
    fourth = samples()
    assert fourth["secbatch_last_run_exit_code"] == 2 and fourth[SUCCESS] == second[SUCCESS]
    assert fourth["secbatch_last_run_rows[read]"] == 0 and fourth["secbatch_dataset_rows"] == 4
    with hold(Path("out/_secbatch/lock")):
        assert night() == 75
    assert samples()["secbatch_runs_total[75]"] == 1
    Path("job.yaml").write_text("name: [")
    assert night() == 2
    last = samples()
    assert last["secbatch_runs_total[2]"] == 2
    for gauge in ("secbatch_dataset_rows", "secbatch_dataset_version"):  # what readers see is not gone
        assert last[gauge] == third[gauge] > 0


@pytest.mark.parametrize(
    "text",
    [
        b"\xff not metrics {{{\n",
        b'secbatch_runs_total{job_name="night"} 3\n',
        b'secbatch_runs_total{job_name="night",exit_code="0"} -3\n',
        b'secbatch_runs_total{job_name="night",exit_code="0"} NaN\n',
        b'secbatch_runs_total{job_name="other",exit_code="0"} 3\n',
    ],
    ids=["no metrics", "no exit code", "below zero", "no number", "another job's"],
)
def test_a_file_of_no_runs_of_this_job_is_written_anew_whole(counter: Counter, text: bytes) -> None:
    FILE.write_bytes(text)
    assert night() == 0
    assert samples()["secbatch_runs_total[0]"] == 1
    assert [p.name for p in Path().iterdir() if p.name.startswith("secbatch.prom")] == ["secbatch.prom"]


def test_what_is_in_the_way_is_said_before_the_run(
    counter: Counter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (["run", "job.yaml"], ["run", "job.yaml", "--dry-run"]):
        assert _run([*command, "--metrics-file", "no/such/folder.prom"]) == 2
        assert "name a file in a folder that exists" in capsys.readouterr().err
        with monkeypatch.context() as patched:
            patched.setattr("os.access", lambda place, mode: False)  # whoever runs the tests may write anywhere
            assert _run([*command, "--metrics-file", "a.prom"]) == 1
        assert "--metrics-file 'a.prom' may not be written; mend the folder's rights" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert night() == 2
    assert "pip install 'secbatch[metrics]'" in capsys.readouterr().err
    assert not Path("out").exists() and counter.rows == 0


def test_a_file_of_something_else_is_not_replaced_and_no_device_is_read(
    counter: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Path("job.yaml").read_text()
    assert _run(["run", "job.yaml", "--metrics-file", "job.yaml"]) == 2
    assert "'job.yaml' holds something else, which would be replaced" in capsys.readouterr().err
    assert Path("job.yaml").read_text() == job
    os.mkfifo("pipe")  # whoever reads it waits for a writer; of /dev/full there is no end
    for device in ("pipe", "/dev/full"):
        assert _run(["run", "job.yaml", "--metrics-file", device]) == 2
        assert f"'{device}' is a device or a pipe" in capsys.readouterr().err
    assert not Path("out").exists() and counter.rows == 0
    Path("metrics").touch()
    for _ in range(2):
        assert _run(["run", "job.yaml", "--metrics-file", "metrics"]) == 0
    assert b"secbatch_rows_total" in Path("metrics").read_bytes()
