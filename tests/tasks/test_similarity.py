"""Similarity against brute force over the embed task's own vectors."""

import _thread
import pickle
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from tiny_models import SENTENCES
from torch_threads import one_thread  # noqa: F401

from secbatch.errors import ModelError
from secbatch.job import Job
from secbatch.models import memory_patience
from secbatch.models.device import choose
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Transfer
from secbatch.runner import run_job
from secbatch.task_specs import Embed, Similarity
from secbatch.tasks import reference_vectors
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.embed import EmbedTask
from secbatch.tasks.encoder_task import compute_together
from secbatch.tasks.similarity import SimilarityTask
from secbatch.waiting import pause

CPU = choose("cpu", "float32")
Tiny = Callable[[str], ResolvedModel]
TEXTS = [" ".join(" ".join(SENTENCES[n % 8 :]).split()[: 2 + n]) for n in range(20)] + SENTENCES[:2]
# Pieces of the sentences, one of them twice: equal texts have equal scores.
REFERENCE = [(f"T{n}", " ".join(SENTENCES[n % 8].split()[n // 8 : n // 8 + 6])) for n in range(24)]
REFERENCE[20] = ("T20", REFERENCE[3][1])


@pytest.fixture
def reference(tmp_path: Path) -> str:
    path = tmp_path / "reference.csv"
    pd.DataFrame(REFERENCE, columns=["id", "text"]).to_csv(path, index=False)
    return str(path)


def make_task(
    model: ResolvedModel,
    reference: str,
    scratch: Path | None = None,
    encoder: SharedEncoder | None = None,
    **options: Any,
) -> SimilarityTask:
    about = {"path": reference, "id": "id", "text": "text"}
    values = {"type": "similarity", "model": model.name, "text": "text", "reference": about, **options}
    schema = pa.schema([("text", pa.string())])
    return SimilarityTask(
        "near", Similarity.model_validate(values), schema, encoder or SharedEncoder(model, CPU, scratch)
    )


def run(task: Any, texts: list[str | None]) -> TaskColumns:
    task.load()
    ids = pa.array([str(row) for row in range(len(texts))], pa.string())
    table = pa.table({"text": pa.array(texts, pa.string())})
    done: TaskColumns = task.finish(task.compute(task.encode(table, ids, pa.array([True] * len(texts), pa.bool_()))))
    assert list(done.columns) == [field.name for field in task.fields]
    for field, column in zip(task.fields, done.columns.values(), strict=True):
        assert column.type == field.type and len(column) == len(texts)
        column.validate(full=True)
    return done


def vectors(model: ResolvedModel, texts: list[str], **options: Any) -> np.ndarray:
    spec = Embed.model_validate({"type": "embed", "model": model.name, "text": "text", **options})
    task = EmbedTask("vec", spec, pa.schema([("text", pa.string())]), SharedEncoder(model, CPU))
    return np.array(run(task, list(texts)).columns["vec"].to_pylist(), np.float64)


@pytest.mark.parametrize("kind", ["bert", "albert"])
@pytest.mark.parametrize("options", [{}, {"pooling": "first"}, {"normalize": False}])
def test_equals_brute_force(tiny: Tiny, reference: str, kind: str, options: dict[str, Any]) -> None:
    model = tiny(kind)
    done = run(make_task(model, reference, top_k=5, **options), list(TEXTS))
    made = {"normalize": True, **options}
    products = vectors(model, TEXTS, **made) @ vectors(model, [text for _, text in REFERENCE], **made).T
    best = np.argsort(-np.round(products, 5), axis=1, kind="stable")[:, :5]
    for row, near in enumerate(done.columns["near"].to_pylist()):
        wanted = products[row, best[row]]
        got = [one["score"] for one in near]
        assert np.allclose(got, wanted, atol=1e-4) and got == sorted(got, reverse=True)
        apart = np.append(np.diff(wanted) < -1e-4, True) & np.insert(np.diff(wanted) < -1e-4, 0, True)
        assert [one["id"] for one, clear in zip(near, apart, strict=True) if clear] == [
            REFERENCE[place][0] for place, clear in zip(best[row], apart, strict=True) if clear
        ]
        assert done.columns["near_top"][row].as_py() == near[0]["id"]
        assert done.columns["near_score"][row].as_py() == near[0]["score"]
    assert len(set(done.columns["near_top"].to_pylist())) > 5


def test_equal_scores_are_ranked_in_the_order_of_the_reference(tiny: Tiny, reference: str) -> None:
    near = run(make_task(tiny("bert"), reference, top_k=2), [REFERENCE[3][1]]).columns["near"].to_pylist()[0]
    assert [one["id"] for one in near] == ["T3", "T20"]
    assert near[0]["score"] == near[1]["score"] == pytest.approx(1.0, abs=1e-5)


def test_threshold_nothing_to_do_and_hostile_texts(tiny: Tiny, reference: str) -> None:
    texts = [REFERENCE[5][1], None, "", "  ", "</s> [SEP] <mask>\x1b[31m", REFERENCE[5][1]]
    done = run(make_task(tiny("bert"), reference, threshold=0.9999), list(texts))
    near = done.columns["near"].to_pylist()
    assert near[1:4] == [None] * 3 and near[4] == [] and near[0] == near[5]
    assert done.columns["near_top"].to_pylist() == ["T5", None, None, None, None, "T5"]
    assert done.columns["near_score"].null_count == 4 and done.errors == {}
    assert run(make_task(tiny("bert"), reference), []).columns["near"].to_pylist() == []
    few = run(make_task(tiny("bert"), reference, top_k=1000), list(TEXTS[:1])).columns["near"].to_pylist()
    assert len(few[0]) == len(REFERENCE)


def test_a_threshold_of_one_finds_equal_texts(tiny: Tiny, reference: str) -> None:
    task = make_task(tiny("bert"), reference, threshold=1.0)
    near = run(task, [text for _, text in REFERENCE[:20]]).columns["near"].to_pylist()
    assert [one[0]["id"] for one in near] == [name for name, _ in REFERENCE[:20]]
    assert min(one[0]["score"] for one in near) < 1  # by rounding
    assert task.fingerprint() != make_task(tiny("bert"), reference, threshold=0.9).fingerprint()


def test_the_batch_does_not_matter_and_texts_are_remembered(tiny: Tiny, reference: str, tmp_path: Path) -> None:
    task = make_task(tiny("bert"), reference, scratch=tmp_path, threshold=0.2)
    whole = run(task, list(TEXTS))
    again = run(task, [*reversed(TEXTS), "a new text"])
    alone = [run(make_task(tiny("bert"), reference, threshold=0.2), [text]) for text in TEXTS]
    for name, column in whole.columns.items():
        assert again.columns[name].to_pylist()[-2::-1] == column.to_pylist()
        if task.remembers:  # then bit for bit
            assert [one.columns[name].to_pylist()[0] for one in alone] == column.to_pylist()
    assert again.tokens < whole.tokens / 5 or not task.remembers


def test_embed_and_similarity_share_one_forward(tiny: Tiny, reference: str) -> None:
    model = tiny("bert")
    encoder = SharedEncoder(model, CPU)
    spec = Embed.model_validate({"type": "embed", "model": model.name, "text": "text", "normalize": True})
    table = pa.table({"text": TEXTS})
    tasks: dict[str, Any] = {
        "vec": EmbedTask("vec", spec, table.schema, encoder),
        "near": make_task(model, reference, encoder=encoder),
    }
    ids, usable = pa.array([str(row) for row in range(len(TEXTS))]), pa.array([True] * len(TEXTS))
    for task in tasks.values():
        task.load()
    encoded = {name: task.encode(table, ids, usable) for name, task in tasks.items()}
    computed = compute_together(tasks, encoded)
    assert computed["vec"].tokens > 0 and computed["near"].tokens == 0
    apart = run(make_task(model, reference), list(TEXTS))
    assert tasks["near"].finish(computed["near"]).columns["near_top"].equals(apart.columns["near_top"])


def test_many_vectors_lie_on_disk(tiny: Tiny, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run(make_task(tiny("bert"), reference), list(TEXTS)).columns["near"]
    monkeypatch.setattr(reference_vectors, "IN_MEMORY", 0)
    (tmp_path / "scratch").mkdir()
    task = make_task(tiny("bert"), reference, scratch=tmp_path / "scratch")
    assert run(task, list(TEXTS)).columns["near"].equals(wanted)
    assert task._nearest is not None and isinstance(task._nearest.matrix, np.memmap)

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ModelError, match=r"GB of disk beside the output \(No space left on device\)"):
        make_task(tiny("bert"), reference, scratch=tmp_path / "scratch").load()


def test_the_fingerprint_follows_what_decides_results(tiny: Tiny, reference: str) -> None:
    def prints() -> set[str]:
        options: list[dict[str, Any]] = [{}, {"pooling": "first"}, {"normalize": False}, {"top_k": 1}, {"threshold": 0}]
        return {make_task(tiny("bert"), reference, **one).fingerprint() for one in options}

    before = prints()
    assert len(before) == 5 == len(prints() & before)
    task = make_task(tiny("bert"), reference)
    assert pickle.loads(pickle.dumps(task)).fingerprint() == task.fingerprint()
    path = Path(reference)
    path.write_text(path.read_text().replace("T7", "T77"))
    assert not prints() & before


def test_a_changed_reference_computes_its_task_alone(
    tiny: Tiny, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"id": range(len(TEXTS)), "text": TEXTS}).to_csv("in.csv", index=False)
    model = str(tiny("bert").folder)
    tasks: dict[str, Any] = {
        "vec": {"type": "embed", "model": model, "text": "text"},
        "near": {
            "type": "similarity",
            "model": model,
            "text": "text",
            "reference": {"path": reference, "id": "id", "text": "text"},
        },
    }
    job = Job.model_validate(
        {
            "name": "n",
            "input": {"path": "in.csv", "id": ["id"]},
            "tasks": tasks,
            "output": {"path": "out"},
            "precision": "float32",
        }
    )

    def rows() -> pd.DataFrame:
        return pd.read_parquet("out/data").sort_values("id").reset_index()

    run_job(job)
    before = rows()
    assert run_job(job).enriched == 0
    path = Path(reference)
    path.write_text(re.sub("^T", "X", path.read_text(), flags=re.MULTILINE))
    embedded: list[int] = []
    finish = EmbedTask.finish
    monkeypatch.setattr(
        EmbedTask, "finish", lambda task, made: embedded.append(len(made.vectors)) or finish(task, made)
    )
    assert run_job(job).enriched == len(TEXTS) and embedded == []
    after = rows()
    assert [top.replace("X", "T") for top in after["near_top"]] == before["near_top"].tolist()
    assert all(np.array_equal(a, b) for a, b in zip(after["vec"], before["vec"], strict=True))


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait_for_memory_of_a_reference(
    tiny: Tiny, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vectors are made while models are loaded, on a thread that no signal reaches."""
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"text": TEXTS}).to_csv("in.csv", index=False)
    near = {"type": "similarity", "model": str(tiny("bert").folder), "text": "text"}
    near["reference"] = {"path": reference, "id": "id", "text": "text"}  # type: ignore[assignment]
    job = {"name": "near", "input": {"path": "in.csv"}, "tasks": {"near": near}, "output": {"path": "out"}}

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    waits: list[str] = []

    def long_pause(_: float, over: Callable[[], bool]) -> None:
        assert not waits, "it was waited for once more"
        waits.append(threading.current_thread().name)
        _thread.interrupt_main()
        pause(60, over)

    monkeypatch.setattr(Transfer, "take", full)
    monkeypatch.setattr(memory_patience, "pause", long_pause)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_job(Job.model_validate(job))
    assert waits == ["encode"] and time.monotonic() - begin < 50
