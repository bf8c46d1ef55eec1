"""Whether a model was trained on the file that it is measured on, as the record beside its weights says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secbatch.labelled.examples import DataFile
from secbatch.models.resolved import ResolvedModel


def trained_on(model: ResolvedModel, files: Sequence[DataFile]) -> tuple[str, ...]:
    """A notice where `secbatch finetune` learned from, or chose by, one of `files`; by hash, whatever its name."""
    seen = _hashes(model.folder / "training.json")
    return tuple(
        f"model {model.name} was trained with {file.path} ({', '.join(seen[file.sha256])}): its figures on it flatter"
        for file in files
        if file.sha256 in seen
    )


def _hashes(path: Path) -> dict[str, list[str]]:
    """sha256 of each file of a training -> what it was used for; empty where there is no such record."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))["data"]
        seen: dict[str, list[str]] = {}
        for use in ("train", "dev"):
            for file in (data.get(use) or {}).get("files") or ():
                seen.setdefault(str(file["sha256"]), []).append(use)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # of another program, or none
        return {}
    return seen
