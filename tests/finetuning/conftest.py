"""Trainings of tiny models."""

import pytest
from small_jobs import leave_out_curve
from torch_threads import one_thread  # noqa: F401


@pytest.fixture
def without_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """For trainings that are about something else: to draw it takes as long as the rest."""
    leave_out_curve(monkeypatch)
