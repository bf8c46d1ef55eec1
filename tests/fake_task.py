"""A task without a model, to test what surrounds tasks: it upper-cases a column and counts the rows it was given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from secbatch.errors import Interrupted
from secbatch.models.resolved import ResolvedModel
from secbatch.tasks.base import TaskColumns


@dataclass
class Counter:
    rows: int = 0


class UpperTask:
    """Adds `<name>`: the text in upper case. Rows whose text is `poison` are errors."""

    def __init__(self, name: str, spec: Any, counter: Counter) -> None:
        self.name, self.spec, self.counter = name, spec, counter
        self.reads = (spec.text,)
        self.notices: tuple[str, ...] = ()
        self.fields = (pa.field(name, pa.string()),)

    def fingerprint(self) -> str:
        return f"upper {self.spec.text} {getattr(self.spec, 'top_k', 0)}"

    def load(self) -> None:
        return

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> Any:
        return pc.if_else(usable, table.column(self.spec.text).combine_chunks(), pa.scalar(None, pa.string()))

    def compute(self, encoded: Any) -> Any:
        self.counter.rows += len(encoded)
        return pc.utf8_upper(encoded)

    def finish(self, computed: Any) -> TaskColumns:
        poison = np.flatnonzero(pc.fill_null(pc.equal(computed, "POISON"), False).to_numpy(zero_copy_only=False))
        errors = {int(position): f"Task {self.name}: this row cannot be done." for position in poison}
        done = pa.array(np.isin(np.arange(len(computed)), poison, invert=True))
        return TaskColumns({self.name: pc.if_else(done, computed, None)}, errors, tokens=len(computed))


class DrawnTask(UpperTask):
    """Adds the row's identity to the text, as it decides an answer that is drawn by chance."""

    samples = True

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> Any:
        return pc.binary_join_element_wise(super().encode(table, ids, usable), ids, " ")


def install(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Makes every task of every job an UpperTask, and every model one that is at hand."""
    counter = Counter()
    model = ResolvedModel("fake", None, None, Path(), "0" * 64, "0" * 64, None)
    monkeypatch.setattr("secbatch.models.resolve.resolve", lambda name, revision=None: model)
    monkeypatch.setattr("secbatch.worker.build_task", lambda name, spec, *rest: UpperTask(name, spec, counter))
    return counter


def install_in(folder: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: tuple[int, ...]) -> Counter:
    """As `install`, for a test that works in `folder`, with row targets of the first shards, the last for the rest."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: shard_rows)
    return install(monkeypatch)


@contextmanager
def interrupted_after(rows: int) -> Iterator[None]:
    """The run inside is interrupted once its tasks were given so many rows."""
    compute = UpperTask.compute

    def interrupted(self: UpperTask, encoded: Any) -> Any:
        if self.counter.rows >= rows:
            raise Interrupted("stop")
        return compute(self, encoded)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(UpperTask, "compute", interrupted)
        yield
