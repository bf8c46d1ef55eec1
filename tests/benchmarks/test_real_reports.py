"""The benchmark on whole reports runs as its first line says, and its table adds up."""

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.models.resolved import ResolvedModel


def test_it_prints_rows_and_hits_of_the_three_runs(
    benchmark: Callable[..., None],
    tiny: Callable[[str], ResolvedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"The {word} of host {number} runs a script. Then {word} reaches a server by mail. " * 4
             for number, word in enumerate(("botnet", "backdoor", "third"))]  # fmt: skip
    pq.write_table(pa.table({"text": texts}), tmp_path / "reports.parquet")
    models = ["--model", tiny("roberta").folder, "--chat-model", tiny("blenderbot").folder]
    benchmark("real_reports.py", "--reports", tmp_path / "reports.parquet", "--limit", "2", "--keep", "kept", *models)
    said = capsys.readouterr().out
    sentences = pq.read_table(tmp_path / "kept" / "probe" / "data", columns=["sentence", "access_top", "vec"])
    masked = pq.read_table(tmp_path / "kept" / "words" / "data")
    assert sentences.num_rows > 10 and sentences["access_top"].null_count == sentences["vec"].null_count == 0
    assert 10 < masked.num_rows <= sentences.num_rows
    rows = {line[0]: int(line.split()[-5]) for line in said.splitlines() if re.match("[abc] .* [0-9.,]+$", line)}
    assert rows == {"a": sentences.num_rows, "b": masked.num_rows, "c": 2}
    assert f"over {masked.num_rows} masked words" in said


def test_a_run_that_fails_ends_it(
    benchmark: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="ended with exit code 1"):
        benchmark("real_reports.py", "--limit", "1", "--model", "no-such-folder")
    assert "no-such-folder" in capfd.readouterr().err
