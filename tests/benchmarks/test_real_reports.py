"""The benchmark on whole reports runs as its first line says, and its table adds up."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from tiny_models import make_blenderbot, make_roberta

ROOT = Path(__file__).parents[2]


def test_it_prints_rows_and_hits_of_the_three_runs(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "real_reports.py")
    models = ["--model", str(make_roberta(tmp_path / "mlm")), "--chat-model", str(make_blenderbot(tmp_path / "chat"))]
    command = [sys.executable, script, "--limit", "2", "--keep", "kept", *models]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sentences = pq.read_table(tmp_path / "kept" / "probe" / "data", columns=["sentence", "access_top", "vec"])
    masked = pq.read_table(tmp_path / "kept" / "words" / "data")
    assert sentences.num_rows > 10 and sentences["access_top"].null_count == sentences["vec"].null_count == 0
    assert 10 < masked.num_rows <= sentences.num_rows
    rows = {line[0]: int(line.split()[-5]) for line in done.stdout.splitlines() if re.match("[abc] .* [0-9.]+$", line)}
    assert rows == {"a": sentences.num_rows, "b": masked.num_rows, "c": 2}
    assert f"over {masked.num_rows} masked words" in done.stdout


def test_a_run_that_fails_ends_it(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "real_reports.py")
    command = [sys.executable, script, "--limit", "1", "--model", "no-such-folder"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "no-such-folder" in done.stderr and "ended with exit code" in done.stderr
