"""Gaps in a GPU's work are found; what the trace itself gives is seen on a GPU only."""

import importlib
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from secbatch.engines.local import LocalEngine

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


def test_what_the_feeding_thread_does_is_counted_once_and_no_other_thread_s(
    gpu_gaps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    host_watch = importlib.import_module("host_watch")
    clock = iter(range(100, 10_000, 100))
    monkeypatch.setattr(host_watch, "time", SimpleNamespace(time_ns=lambda: next(clock)))

    class Stages:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            pass

    monkeypatch.setattr(host_watch, "SEEN", (("plans", Stages, "outer"), ("copies", Stages, "inner")))
    with gpu_gaps.HostWatch() as watch:  # begins at 100
        other = threading.Thread(target=Stages().outer)
        other.start()
        other.join()
        Stages().outer()  # 200 to 500, of which 300 to 400 are within
    assert watch.between(0, 1000) == {host_watch.REST: 200, "plans": 200, "copies": 100}
    assert watch.between(250, 350) == {"plans": 50, "copies": 50}
    Stages().outer()
    assert len(watch.spans) == 5


def test_what_is_watched_is_there(gpu_gaps: ModuleType) -> None:
    before = LocalEngine._get
    with gpu_gaps.HostWatch():
        assert LocalEngine._get is not before
    assert LocalEngine._get is before
