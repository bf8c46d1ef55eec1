"""A limit on the address space in which the libraries cannot even be loaded."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secbatch import address_space

JOB = "{name: n, input: {path: in.csv}, tasks: {v: {type: embed, model: builtin/mlm, text: text}}, output: {path: out}}"


def test_a_limit_that_is_too_low_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "job.yaml").write_text(JOB)
    shell = f"ulimit -v 1400000 && OPENBLAS_NUM_THREADS=1 exec '{sys.executable}' -m secbatch run job.yaml"
    process = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    before, between, after = process.stderr.splitlines()[-1].partition(
        "Error: The address space of this process is limited to 1,367 MiB (ulimit -v), and the libraries "
    )
    assert between and not before
    if torch.version.cuda is None:
        assert after == "alone take 1,700 MiB; raise the limit."
    else:  # they are loaded before the limit is looked at, and have no room
        assert after.startswith("take more (libtorch") and after.endswith("); raise the limit.")


def test_a_library_without_room_is_said_where_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ImportError("libtorch_cuda.so: failed to map segment from shared object")
    assert address_space.refused(error) is None  # as on a file system that forbids code
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2500 << 20, resource.RLIM_INFINITY))
    assert address_space.refused(ImportError("no such library")) is None
    assert str(address_space.refused(error)) == (
        "the address space of this process is limited to 2,500 MiB (ulimit -v), and the libraries take more "
        "(libtorch_cuda.so: failed to map segment from shared object); raise the limit"
    )


def test_python_without_docstrings_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "job.yaml").write_text(JOB)
    command = [sys.executable, "-OO", "-m", "secbatch", "run", "job.yaml"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert "Error: Python runs without docstrings (-OO, or PYTHONOPTIMIZE=2), and" in process.stderr.splitlines()[-1]
