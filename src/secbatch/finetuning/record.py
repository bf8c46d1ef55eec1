"""`training.json`: what was trained, on what, how well; for machines, and for the model card."""

import platform
from dataclasses import asdict
from typing import Any

import secbatch
from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning.ancestry import trained_record
from secbatch.finetuning.build import Built
from secbatch.finetuning.dataset import Dataset
from secbatch.finetuning.objective import Evaluation
from secbatch.finetuning.progress import State
from secbatch.models.device import Compute
from secbatch.models.resolved import ResolvedModel

SCHEMA = 1


def make_record(
    job: FinetuneJob,
    data: Dataset,
    base: ResolvedModel,
    built: Built,
    compute: Compute,
    state: State,
    evaluations: dict[str, Evaluation],
    rates: dict[str, float],
    fingerprint: str,
    started: str,
    finished: str,
) -> dict[str, Any]:
    """What training.json says of a training (docs/finetune.md). `evaluations`: by side, of the finished model."""
    import torch

    assert state.best is not None
    return {
        "schema": SCHEMA,
        "name": job.name,
        "objective": job.objective,
        "fingerprint": fingerprint,
        "started": started,
        "finished": finished,
        "base": _about_base(base),
        "data": _about_data(job, data, built),
        "labels": list(data.labels),
        "hyperparameters": {
            **job.settled().model_dump(mode="json"),
            **rates,
            "max_length": built.max_length,
        },
        "chosen_by": job.metric,
        "best_epoch": state.best["epoch"],
        "base_on_dev": state.before,
        "history": state.history,
        "metrics": {name: evaluation.metrics for name, evaluation in evaluations.items()},
        "by_label": {
            name: [asdict(figures) for figures in evaluation.by_label] for name, evaluation in evaluations.items()
        },
        "confused": {name: [list(pair) for pair in evaluation.confused] for name, evaluation in evaluations.items()},
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "tokens_per_second": round(state.tokens / state.seconds, 1) if state.seconds else None,
        "device": compute.description,
        "precision": compute.dtype,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _about_base(base: ResolvedModel) -> dict[str, Any]:
    return {
        "name": base.name,
        "hub_id": base.hub_id,
        "revision": base.revision,
        "weights_hash": base.weights_hash,
        "tokenizer_hash": base.tokenizer_hash,
        "licence": base.licence,
        "trained": _ancestor(base),
    }


def _about_data(job: FinetuneJob, data: Dataset, built: Built) -> dict[str, Any]:
    return {
        "columns": job.data.model_dump(mode="json", exclude_none=True, exclude={"train", "dev", "test"}),
        **{
            name: {
                "files": [asdict(file) for file in side.files],
                "rows": len(side.examples),
                "groups": side.groups,
                "sequences": len(built.items[name]),
                "malformed": side.malformed,
            }
            for name, side in data.sides.items()
        },
        "dev_is_part_of_train": job.data.dev is None,
    }


def versions() -> dict[str, str]:
    import numpy
    import torch
    import transformers

    return {
        "secbatch": secbatch.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def _ancestor(base: ResolvedModel) -> dict[str, Any] | None:
    """Of a base that is itself the result of a training: from what, for what, and how it did."""
    record = trained_record(base.folder)
    if record is None:
        return None
    kept = {key: record.get(key) for key in ("name", "objective", "fingerprint", "metrics", "base_on_dev")}
    return {**kept, "base": record["base"]}
