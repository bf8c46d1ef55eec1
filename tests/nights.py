"""Small corpora, night after night, through a job with a task that needs no model."""

from pathlib import Path
from typing import Any

import pandas as pd
from fake_task import Counter

from secbatch.job import Job
from secbatch.runner import run_job

WITH_ID = {"path": "in/*.csv", "id": ["id"]}


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "name": "test",
        "input": {"path": "in/*.csv"},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
        "output": {"path": "out"},
    }
    for key, value in changes.items():
        top, _, rest = key.partition("__")
        values[top] = {**values[top], rest: value} if rest else value
    return Job.model_validate(values)


def write(name: str, *lines: str) -> None:
    Path("in").mkdir(exist_ok=True)
    (Path("in") / name).write_text("\n".join(lines) + "\n")


def rows(path: str = "out") -> pd.DataFrame:
    return pd.read_parquet(Path(path) / "data")


def done(counter: Counter, **changes: Any) -> int:
    """Rows that a run gives to the models."""
    before = counter.rows
    run_job(job(**changes))
    return counter.rows - before


LINES = [f"{n},word {n},note {n}" for n in range(100)]
