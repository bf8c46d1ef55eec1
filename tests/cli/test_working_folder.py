"""A working directory that was removed under the feet of a process."""

import os
import shutil
import subprocess
import sys
from importlib import resources
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


@pytest.mark.parametrize("locale", ["UTF-8", "C"])
@pytest.mark.parametrize("command", ["enrich in.csv -o out --embed text", "run job.yaml", "plan job.yaml", "show out"])
def test_a_working_folder_whose_name_no_record_can_hold(command: str, locale: str, tmp_path: Path) -> None:
    folder = tmp_path / (os.fsdecode(b"caf\xe9") if locale == "UTF-8" else "café")
    folder.mkdir()
    (folder / "in.csv").write_text("text\na\n")
    (folder / "job.yaml").write_text(JOB)
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}
    environment = os.environ | (plain if locale == "C" else {})
    run = [sys.executable, "-m", "secbatch", *command.split()]
    process = subprocess.run(run, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=60)
    name, mend = (r"caf\xe9", "it is not UTF-8; rename") if locale == "UTF-8" else ("café", "names and arguments are")
    assert process.returncode == 1
    assert process.stderr.startswith(f"Error: The working directory '{tmp_path}/{name}' has a name that cannot be")
    assert mend in process.stderr and not (folder / "out").exists()


def test_a_model_in_a_folder_whose_name_is_not_utf_8_is_promoted(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with resources.as_file(resources.files("secbatch.builtin") / "mlm") as model:
        shutil.copytree(model, folder)
    secbatch = [sys.executable, "-m", "secbatch", "models"]
    environment = os.environ | {"SECBATCH_MODELS": str(tmp_path / "models"), "LOGNAME": os.fsdecode(b"\xe9mile")}
    for command in (["promote", "topics=."], ["history", "topics"]):
        done = subprocess.run([*secbatch, *command], cwd=folder, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert rf" by \xe9mile from {tmp_path}/caf\xe9  <- current" in done.stdout
