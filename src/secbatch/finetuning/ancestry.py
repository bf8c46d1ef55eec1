"""What an earlier training left in a model's folder: where a base comes from."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

RECORD = "training.json"


class _Told(BaseModel):
    """What a card tells of it. A model of the hub may have any file of that name."""

    model_config = ConfigDict(strict=True)


class _Base(_Told):
    name: str
    licence: str | None = None
    trained: "_Training | None" = None


class _Training(_Told):
    name: str
    objective: str
    fingerprint: str
    metrics: dict[str, dict[str, float]]
    base_on_dev: dict[str, float] | None = None
    base: _Base


_Base.model_rebuild()


def trained_record(folder: Path) -> dict[str, Any] | None:
    """What a training of ours left in a model's folder; None for a model that came about in another way."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _Training.model_validate(record)
    except (OSError, ValueError, RecursionError, ValidationError):
        return None
    return record
