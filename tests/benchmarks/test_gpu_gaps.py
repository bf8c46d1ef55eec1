"""Gaps in a GPU's work are found; what the trace itself gives is seen on a GPU only."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_gaps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_gaps")


def test_gaps_lie_between_works_and_within_the_bounds(gpu_gaps: ModuleType) -> None:
    works = [(0, 40, "a"), (10, 20, "within a"), (45, 60, "b"), (60, 70, "c"), (90, 200, "d")]
    assert list(gpu_gaps.gaps(works, 15, 150)) == [(40, 45, "b"), (70, 90, "d")]


def test_an_idle_end_is_a_gap(gpu_gaps: ModuleType) -> None:
    assert list(gpu_gaps.gaps([(0, 10, "a"), (40, 50, "late")], 5, 30)) == [(10, 30, "late")]
    assert list(gpu_gaps.gaps([(0, 10, "a")], 5, 30)) == [(10, 30, "the end")]


def test_nothing_is_left_over_where_it_is_always_at_work(gpu_gaps: ModuleType) -> None:
    assert list(gpu_gaps.gaps([(0, 30, "a"), (20, 60, "b")], 10, 50)) == []


def test_a_machine_without_a_gpu_is_told_so(gpu_gaps: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_gaps.py"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU"):
        gpu_gaps.main()
