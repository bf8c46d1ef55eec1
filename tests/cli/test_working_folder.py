"""A working directory that was removed under the feet of a process."""

import subprocess
import sys
from pathlib import Path

import pytest

JOB = "{name: n, input: {path: in.csv}, tasks: {v: {type: embed, model: builtin/mlm, text: text}}, output: {path: out}}"
ENRICH = "enrich {folder}/in.csv -o {folder}/out --embed text --mask-model builtin/mlm"


MODELS = ["models verify builtin/mlm", "models promote x=builtin/mlm", "models diff a b --input in.csv --text text"]


@pytest.mark.parametrize(
    "command", [ENRICH, "plan {folder}/job.yaml", "mask 'a <mask>'", "ask why", "evaluate m", *MODELS]
)
def test_a_working_folder_that_is_gone_is_said_before_libraries_are_loaded(command: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "job.yaml").write_text(JOB)
    shell = f"rmdir '{gone}' && exec '{sys.executable}' -m secbatch {command.format(folder=tmp_path)}"
    process = subprocess.run(["bash", "-c", shell], cwd=gone, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert process.stderr.endswith(
        "Error: The working directory of this process was removed, and the libraries do not compute without one; "
        "change to a folder that is there and run again.\n"
    )
    assert not (tmp_path / "out").exists()
