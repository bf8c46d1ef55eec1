"""The benchmarks of the path around the model run, and what they print adds up."""

import importlib
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fork_server
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_host_path_is_measured_stage_by_stage(
    benchmark: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    benchmark("host_path.py", "--rows", "3000", "--json", figures)
    found = json.loads(figures.read_text())
    assert found["rows"] == 3000 and found["tokens_per_sentence"] > 5
    stages = found["cpu_us_per_row"]
    assert f"{found['ratio']:.0%}" in capsys.readouterr().out
    # Every stage that the benchmark names is met, and words that are looked up cost less than the tokenizer alone.
    assert all(spent > 0 for stage, spent in stages.items() if stage != "all else"), stages
    table = (BENCHMARKS.parent / "docs/performance/path.md").read_text().partition("| stage |")[2].partition("\n\n")[0]
    documented = {name for row in table.splitlines()[2:] for name in row.split(" | ")[0].strip("| ").split("; ")}
    assert len(documented) > 8 and documented <= set(stages)
    assert stages["tokenise"] < 0.7 * found["tokenizer_alone"]["cpu_us_per_row"]
    assert 0 < found["pretended_device"]["busy_share"] <= 1


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_wide_rows_are_measured(benchmark: Callable[..., None], tmp_path: Path, kind: str) -> None:
    figures = tmp_path / "figures.json"
    benchmark("host_path.py", "--rows", "300", "--columns", "9", "--format", kind, "--json", figures)
    found = json.loads(figures.read_text())
    assert (found["rows"], found["columns"], found["format"]) == (300, 9, kind) and found["cpu_us_per_row"]["read"] > 0


@pytest.mark.parametrize(("model", "sizes"), [([], [300]), (["--real"], [40, 80])])
def test_memory_and_growth_are_measured_in_processes_of_their_own(
    benchmark: Callable[..., None], tmp_path: Path, model: list[str], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = fork_server.running()
    monkeypatch.setattr(multiprocessing, "get_context", lambda _kind: forked)  # where it would spawn interpreters
    figures = tmp_path / "figures.json"
    benchmark("memory_growth.py", "--sizes", *map(str, sizes), "--like", "cpu", *model, "--json", figures)
    found = json.loads(figures.read_text())
    assert [run["rows"] for run in found] == sizes
    assert all(50 < run["peak_mib"] < 20_000 and run["rows_per_second"] > 0 for run in found)


@pytest.mark.parametrize("night", ["shuffled", "task"])
def test_the_second_night_is_measured(
    benchmark: Callable[..., None], tmp_path: Path, night: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = fork_server.running()
    monkeypatch.setattr(multiprocessing, "get_context", lambda _kind: forked)
    figures = tmp_path / "figures.json"
    benchmark("memory_growth.py", "--sizes", "300", "--like", "cpu", "--night", night, "--json", figures)
    (found,) = json.loads(figures.read_text())
    assert found["night_rows"] == 300 and found["night_rows_per_second"] > 0
    assert 50 < found["night_peak_mib"] < 20_000


def test_sentences_are_all_different_and_each_has_one_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sentences = importlib.import_module("sentences")
    for file, rows in ((None, 5000), (tmp_path / "few.txt", 40)):
        if file:
            file.write_text("One sentence of some words.\n\nAnother <mask> one.\nshort\n")
        made = sentences.distinct_sentences(file, rows)
        assert len(set(made)) == rows and all(text.count("<mask>") == 1 for text in made)
    (tmp_path / "empty.txt").write_text("short\n")
    with pytest.raises(SystemExit, match="no sentence of three words"):
        sentences.distinct_sentences(tmp_path / "empty.txt", 3)


def test_the_pretended_device_takes_batches_ahead_and_then_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    null_model = importlib.import_module("null_model")
    now = 10.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(null_model, "time", SimpleNamespace(perf_counter=lambda: now, sleep=sleep))
    device, moments = null_model.NullDevice(rows_per_second=100.0), []
    for _ in range(5):
        device.begin(50)
        moments.append(now)
    assert moments == [10.0, 10.0, 10.0, 10.5, 11.0]  # one at work and two ahead of it
    assert (device.first, device.last, device.busy, device.busy_share) == (10.0, 12.5, 2.5, 1.0)
    now = 15.0
    device.begin(50)
    assert device.last == 15.5 and device.busy_share == 3 / 5.5
