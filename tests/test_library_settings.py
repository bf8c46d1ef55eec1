"""Values in the environment that a library does not take: it ends its own import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secbatch import library_settings

JOB = "{name: n, input: {path: in.csv}, tasks: {v: {type: embed, model: builtin/mlm, text: text}}, output: {path: out}}"


@pytest.mark.parametrize(
    ("variable", "value", "library"),
    [("HF_HUB_DOWNLOAD_TIMEOUT", "soon", "huggingface_hub"), ("TORCH_LOGS", "everything", "torch")],
)
@pytest.mark.parametrize("command", ["run job.yaml", "mask 'a <mask>'"])
def test_the_library_and_its_variables_are_named(
    command: str, variable: str, value: str, library: str, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "job.yaml").write_text(JOB)
    run = subprocess.run(
        ["bash", "-c", f"exec '{sys.executable}' -m secbatch {command}"],
        cwd=tmp_path,
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 1 and "Internal failure" not in run.stderr
    assert f"Error: Library {library} cannot be loaded with the environment of this process (" in run.stderr
    assert value in run.stderr and f"{variable}" in run.stderr.rsplit("mend or unset the variable", 1)[1]


@pytest.mark.parametrize("library", ["sklearn", "joblib"])
def test_libraries_of_figures(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{library.upper()}_NUMBER", "much")
    with pytest.raises(ValueError, match="much") as raised:
        exec("int('much')", {"__name__": f"{library}.parts"})  # as a module of it does while it is loaded
    told = str(library_settings.refused(raised.value))
    assert told.startswith(f"library {library} cannot be loaded") and f"(there are {library.upper()}_NUMBER)" in told


def test_other_errors_are_none_of_a_librarys_settings() -> None:
    for error in (ValueError("x"), TypeError("x")):
        try:
            raise error
        except (ValueError, TypeError) as raised:
            assert library_settings.refused(raised) is None
