"""A limit on the address space in which the libraries cannot even be loaded."""

import subprocess
import sys
from pathlib import Path

JOB = "{name: n, input: {path: in.csv}, tasks: {v: {type: embed, model: builtin/mlm, text: text}}, output: {path: out}}"


def test_a_limit_that_is_too_low_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "job.yaml").write_text(JOB)
    shell = f"ulimit -v 1400000 && OPENBLAS_NUM_THREADS=1 exec '{sys.executable}' -m secbatch run job.yaml"
    process = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert process.stderr.endswith(
        "Error: The address space of this process is limited to 1,367 MiB (ulimit -v), and the libraries alone take "
        "1,700 MiB; raise the limit.\n"
    )
