"""What a training would be, without training: everything is read, checked and built."""

from dataclasses import dataclass

import numpy as np

from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning.batches import plan_training
from secbatch.finetuning.build import build
from secbatch.finetuning.dataset import load_dataset
from secbatch.finetuning.finetune import aside_of_caller, check_output, compared_job, refuse_others, resolved_base
from secbatch.finetuning.identity import fingerprint
from secbatch.finetuning.optimizer import learning_rate
from secbatch.labelled.checks import label_counts
from secbatch.models.device import choose
from secbatch.models.resolve import resolve
from secbatch.models.threads import restored_threads
from secbatch.models.transformers_calls import import_transformers
from secbatch.store.filesystem import check_writable


@dataclass(frozen=True)
class TrainingPlan:
    rows: dict[str, int]  # by side of the split
    groups: dict[str, int]
    labels: dict[str, int]  # training examples, or spans, of each; empty for objectives without labels
    sequences: int  # of a training epoch
    tokens: int  # of a training epoch
    epochs: int
    steps: int  # at most, over all epochs
    parameters: int
    learning_rate: float
    max_length: int
    device: str
    precision: str
    notices: tuple[str, ...]


@restored_threads()
def plan_finetune(job: FinetuneJob, overwrite: bool = False) -> TrainingPlan:
    """Raises what `secbatch.finetuning.finetune.finetune` raises before its first step."""
    folder = check_output(job)
    check_writable(folder.path)
    base = resolved_base(job)
    data = load_dataset(job)
    compute = choose(job.device, job.precision)
    import_transformers()
    other = compared_job(job)
    identity = fingerprint(job, data, base, compute, resolve(other.model.base) if other else None)
    done = folder.record()
    if not overwrite and (done is None or done.get("fingerprint") != identity):
        refuse_others(job, folder, done, identity)
    with aside_of_caller(compute.device):
        if other:  # it is trained first
            build(other, data, resolved_base(other), compute)
        built = build(job, data, base, compute)
    wanted = job.settled()
    assert wanted.epochs is not None and wanted.batch_tokens is not None
    lengths = np.array([item.length for item in built.items["train"]])
    plan = plan_training(lengths, wanted.batch_tokens, wanted.epochs, wanted.seed)
    counts = label_counts(data.train.examples) if data.labels else {}
    return TrainingPlan(
        rows={name: len(side.examples) for name, side in data.sides.items()},
        groups={name: side.groups for name, side in data.sides.items()},
        labels={label: counts[label] for label in data.labels},
        sequences=len(lengths),
        tokens=int(lengths.sum()),
        epochs=wanted.epochs,
        steps=plan.steps,
        parameters=sum(parameter.numel() for parameter in built.model.parameters()),
        learning_rate=learning_rate(wanted, built.model),
        max_length=built.max_length,
        device=compute.description,
        precision=compute.dtype,
        notices=(*data.notices, *built.notices, *compute.notices),
    )
