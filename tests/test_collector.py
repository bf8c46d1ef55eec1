"""The garbage collector rests while a run is set up, and goes on as before."""

import gc

import pytest

from secbatch import collector
from secbatch.collector import resting


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


def test_only_what_stood_at_the_first_time_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "_kept", False)
    try:
        gc.unfreeze()
        with resting():
            pass
        kept = gc.get_freeze_count()
        assert kept > 0
        more = [[number] for number in range(1000)]
        with resting():
            pass
        assert gc.get_freeze_count() <= kept and len(more) == 1000
    finally:
        gc.unfreeze()
