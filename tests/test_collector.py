"""The garbage collector rests while a run is set up, and goes on as before."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_task import install
from nights import LINES, job, write

from secbatch import collector
from secbatch.collector import resting, set_aside_once
from secbatch.runner import run_job


@pytest.mark.parametrize("on", [True, False])
def test_it_is_as_it_was_afterwards(on: bool) -> None:
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(RuntimeError), resting():
            assert not gc.isenabled()
            raise RuntimeError
        assert gc.isenabled() == on
    finally:
        (gc.enable if was_on else gc.disable)()


@pytest.fixture
def none_set_aside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(collector, "_to_set_aside", False)
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # as conftest.py has it


@pytest.mark.usefixtures("none_set_aside")
def test_only_what_stood_at_the_first_time_is_set_aside() -> None:
    set_aside_once()
    with resting():
        pass
    kept = gc.get_freeze_count()
    assert kept > 0
    more = [[number] for number in range(1000)]
    with resting():
        pass
    assert gc.get_freeze_count() <= kept and len(more) == 1000


@pytest.mark.usefixtures("none_set_aside")
def test_garbage_of_a_caller_is_collected_after_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Node:
        pass

    monkeypatch.chdir(tmp_path)
    install(monkeypatch)
    write("a.csv", "id,text,note", *LINES)
    node = Node()
    node.itself = node  # type: ignore[attr-defined]
    alive = weakref.ref(node)
    run_job(job())
    del node
    gc.collect()
    assert alive() is None and gc.get_freeze_count() == 0
