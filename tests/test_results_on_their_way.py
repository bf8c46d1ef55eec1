"""Results that come off a device later than its batches end, as from a GPU: nobody looks before they are there."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_models import SENTENCES, make_fine_tuned

from secbatch.job import Job
from secbatch.models.resolved import ResolvedModel
from secbatch.models.transfer import Made, Transfer
from secbatch.runner import run_job
from secbatch.tasks.encoder_task import OnDevice


class Late:
    """A flight that lands when it is asked to, and no sooner."""

    landed = 0

    def __init__(self, batch: Iterable[Made]) -> None:
        self._copies = [Made(made.target, made.places, made.values.clone()) for made in batch]

    def land(self) -> None:
        for made in self._copies:
            made.target[made.places] = made.values.numpy()
        Late.landed += len(self._copies) > 0
        self._copies = []


def run(output: str, tasks: dict[str, Any]) -> pd.DataFrame:
    job = Job.model_validate(
        {"name": "late", "input": {"path": "in.csv"}, "tasks": tasks, "output": {"path": output}, "device": "cpu"}
    )
    result = run_job(job)
    assert result.enriched == result.read == 60
    return pd.read_parquet(Path(output) / "data").drop(columns="secbatch_run")


def test_a_job_waits_for_them(
    tiny: Callable[[str], ResolvedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (20,))
    lines = [f'"{SENTENCES[n % 8]} Report {n}: the <mask> fell."' for n in range(60)]
    Path("in.csv").write_text("\n".join(["text", *lines]), encoding="utf-8")
    model = str(tiny("roberta").folder)
    classifier = make_fine_tuned(tmp_path / "classifier", "roberta", "SequenceClassification", num_labels=3)
    tagger = make_fine_tuned(tmp_path / "tagger", "roberta", "TokenClassification", num_labels=3)
    tasks = {
        "words": {"type": "fill-mask", "model": model, "text": "text"},
        "vector": {"type": "embed", "model": model, "text": "text"},
        "label": {"type": "classify", "model": str(classifier), "text": "text"},
        "names": {"type": "ner", "model": str(tagger), "text": "text"},
    }
    at_once = run("at-once", tasks)
    monkeypatch.setattr(Transfer, "take", lambda self, batch: [Late(batch)])
    seen: list[int] = []
    land = OnDevice.land
    monkeypatch.setattr(OnDevice, "land", lambda self: (seen.append(Late.landed), land(self))[1])
    later = run("later", tasks)
    assert len(seen) == 3 * len(tasks) and Late.landed >= 9
    for column in at_once.columns:
        if column == "vector":
            assert np.array_equal(np.stack(later[column]), np.stack(at_once[column]))
        else:
            assert [str(value) for value in later[column]] == [str(value) for value in at_once[column]]
