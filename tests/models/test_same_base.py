"""Models that differ in their heads alone: recognised by their weights, and one forward for all of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SENTENCES, make_fine_tuned

from secbatch.models.device import choose
from secbatch.models.resolve import resolve
from secbatch.models.resolved import ResolvedModel
from secbatch.models.same_base import same_base
from secbatch.models.sequences import TokenSequences
from secbatch.task_specs import Classify, Embed, Ner
from secbatch.tasks.encoder_task import compute_together
from secbatch.tasks.registry import Encoders, build_task

CPU = choose("cpu", "float32")
TABLE = pa.table({"text": SENTENCES})
IDS, USABLE = pa.array([str(row) for row in range(8)]), pa.array([True] * 8)


def with_base_of(one: Path, other: Path, prefix: str) -> ResolvedModel:
    """Model `other` with the base of `one`."""
    weights, base = load_file(other / "model.safetensors"), load_file(one / "model.safetensors")
    weights |= {name: value for name, value in base.items() if name.startswith(prefix) and "pooler" not in name}
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    return resolve(str(other))


@pytest.fixture(params=["roberta", "bert", "distilbert"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> list[ResolvedModel]:
    kind = request.param
    topics = make_fine_tuned(tmp_path / "topics", kind, "SequenceClassification", num_labels=3)
    names = {0: "O", 1: "B-X", 2: "I-X"}
    tags = make_fine_tuned(tmp_path / "tags", kind, "TokenClassification", seed=1, id2label=names)
    return [resolve(str(topics)), with_base_of(topics, tags, f"{kind}.")]


def tasks_of(models: list[ResolvedModel], together: bool) -> dict[str, Any]:
    topics, tags = models
    shared = Encoders(None)
    specs: dict[str, tuple[Any, ResolvedModel]] = {
        "topic": (Classify(type="classify", model="topics", text="text"), topics),
        "ents": (Ner(type="ner", model="tags", text="text"), tags),
        "vec": (Embed(type="embed", model="tags", text="text"), tags),
    }
    return {
        name: build_task(name, spec, TABLE.schema, model, CPU, shared if together else Encoders(None))
        for name, (spec, model) in specs.items()
    }


def test_texts_go_through_a_common_base_once(models: list[ResolvedModel]) -> None:
    assert same_base(*models)
    alone: dict[str, pa.Array] = {}
    for task in tasks_of(models, together=False).values():
        task.load()
        alone |= task.finish(task.compute(task.encode(TABLE, IDS, USABLE))).columns
    tasks = tasks_of(models, together=True)
    for task in tasks.values():
        task.load()
    root = tasks["topic"].encoder
    assert all(task.encoder.root is root for task in tasks.values())
    seen = []
    forward = root._hidden

    class Counting:
        packed, batch_free = forward.packed, forward.batch_free

        def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor:
            seen.append(len(sequences))
            return forward(sequences, at)  # type: ignore[no-any-return]

    root._hidden = root.sequence_head.hidden = counting = Counting()
    tags = tasks["ents"].encoder
    tags._hidden = tags.token_head("token-classification").hidden = counting
    computed = compute_together(tasks, {name: task.encode(TABLE, IDS, USABLE) for name, task in tasks.items()})
    assert sum(seen) == len(SENTENCES)
    for name, task in tasks.items():
        for column, values in task.finish(computed[name]).columns.items():
            for one, other in zip(values.to_pylist(), alone[column].to_pylist(), strict=True):
                assert_alike(one, other)


def assert_alike(one: Any, other: Any) -> None:
    if isinstance(one, float):
        assert abs(one - other) < 1e-5
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right)
    elif isinstance(one, dict):
        assert_alike(list(one.values()), list(other.values()))
    else:
        assert one == other


def test_one_weight_makes_the_difference(models: list[ResolvedModel], tmp_path: Path) -> None:
    topics, tags = models
    folder = Path(shutil.copytree(tags.folder, tmp_path / "other"))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "LayerNorm" in name or "layer_norm" in name)
    weights[name][0] += 1e-6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert not same_base(topics, resolve(str(folder)))
    task = tasks_of([topics, resolve(str(folder))], together=True)
    assert task["topic"].encoder.root is not task["ents"].encoder.root


def test_what_decides_the_states_beside_the_weights(models: list[ResolvedModel], tmp_path: Path) -> None:
    topics, tags = models
    for number, change in enumerate(({"layer_norm_eps": 1e-3}, {"pad_token_id": 3})):
        folder = Path(shutil.copytree(tags.folder, tmp_path / str(number)))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        assert not same_base(topics, resolve(str(folder)))
    folder = Path(shutil.copytree(tags.folder, tmp_path / "words"))
    (folder / "tokenizer_config.json").write_text("{}")
    assert not same_base(topics, resolve(str(folder)))
