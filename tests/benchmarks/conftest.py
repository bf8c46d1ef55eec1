"""Benchmarks run in this process: an interpreter of their own takes seconds to import torch and transformers."""

import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.util import get_temp_dir
from pathlib import Path
from unittest.mock import patch

import pytest
from torch_threads import one_thread  # noqa: F401

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a script makes for itself lie where the tests' do."""
    get_temp_dir()  # of sockets between processes: it is chosen once, and stays to the end
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.getbasetemp()))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`benchmark("parity.py", "--rows", "20")` does what `python benchmarks/parity.py --rows 20` does."""

    def run(name: str, *arguments: str | os.PathLike[str]) -> None:
        script = str(BENCHMARKS / name)
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with patch.dict(os.environ):
            runpy.run_path(script, run_name="__main__")

    return run
