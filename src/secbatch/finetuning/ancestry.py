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


class _Weighed(_Base):
    weights_hash: str


class _Finished(_Training):
    """What is told of it when it is asked for again, or compared with another."""

    finished: str
    best_epoch: int
    steps: int
    tokens: int
    seconds: float
    base: _Weighed


def trained_record(folder: Path) -> dict[str, Any] | None:
    """What a training of ours left in a model's folder; None for a model that came about in another way."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _Training.model_validate(record)
    except (OSError, ValueError, RecursionError, ValidationError):
        return None
    return record


def not_as_written(record: dict[str, Any]) -> str | None:
    """A key of the record of a finished training that cannot be as it was written, None where all may be."""
    try:
        _Finished.model_validate(record)
    except ValidationError as error:
        return ".".join(map(str, error.errors()[0]["loc"]))
    return None
