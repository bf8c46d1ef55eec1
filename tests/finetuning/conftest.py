"""Trainings of tiny models."""

from pathlib import Path
from typing import Any

import pytest
from torch_threads import one_thread  # noqa: F401


@pytest.fixture
def without_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """For trainings that are about something else: to draw it takes as long as the rest."""

    def draw(record: dict[str, Any], path: Path) -> None:
        path.write_bytes(b"")

    monkeypatch.setattr("secbatch.finetuning.curve.draw_curve", draw)
