"""Which model gave a row its results, as the record of the run says that last enriched it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secbatch.cli.footer import models_of, read_footer
from secbatch.store.layout import Layout

SHOWN_DIGITS = 12


class Origins:
    """Looks runs up, each once. A column that a run took over unchanged came of a model with the same hash."""

    def __init__(self, output: Path, metadata: Mapping[bytes, bytes] | None) -> None:
        """`metadata`: of the dataset; a single file has no other record."""
        self._runs = Layout(output).runs if output.is_dir() else None
        self._footer = read_footer(metadata)
        self._known: dict[str | None, str] = {}

    def told(self, run: str | None) -> str:
        """One line: each task's model with its version or revision, and the run."""
        if run not in self._known:
            models = self._models(run)
            if models is None:
                self._known[run] = f"run {run} has left no record"
            else:
                each = ", ".join(f"{task} = {_told(model)}" for task, model in models.items())
                self._known[run] = f"{each} (run {run})"
        return self._known[run]

    def _models(self, run: str | None) -> dict[str, Any] | None:
        if self._runs is None:
            return models_of(self._footer)
        try:
            record = json.loads((self._runs / f"{run}.json").read_text(encoding="utf-8"))
            found: dict[str, Any] = record["models"]
            each = [model["model"] for model in found.values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # killed before it could write one, or it was damaged
        return found if all(isinstance(name, str) for name in each) else None


def _told(model: Mapping[str, Any]) -> str:
    pinned = model.get("promoted") or model.get("revision")
    if pinned:
        return f"{model['model']} {str(pinned)[:SHOWN_DIGITS]}"
    weights = model.get("weights")
    return f"{model['model']} (weights {str(weights)[:SHOWN_DIGITS]})" if weights else str(model["model"])
