"""The record of each run, for people and machines: runs/<run>.json and latest.json."""

import json
from pathlib import Path
from typing import Any

from secbatch.store.durable_files import write_atomically


def write_run_file(folder: Path, run: str, record: dict[str, Any]) -> None:
    """Writes runs/<run>.json and the same as latest.json, each whole or not at all."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    for name in (run, "latest"):
        write_atomically(folder / f"{name}.json", write)
