"""The one door to fine-tuning, for the command line, Python and tests."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from sys import float_info
from typing import TYPE_CHECKING, Any

from secbatch.errors import Interrupted, JobError, OutputError
from secbatch.extras import check_extra
from secbatch.finetune_job import Base, FinetuneJob
from secbatch.finetuning.ancestry import RECORD, trained_record
from secbatch.finetuning.dataset import Dataset, load_dataset
from secbatch.finetuning.folder import COMPARED, ModelFolder
from secbatch.finetuning.identity import fingerprint
from secbatch.finetuning.lack_of_memory import told_where_memory_runs_out
from secbatch.finetuning.reporting import Silent, TrainingReporter
from secbatch.models.device import Compute, choose
from secbatch.models.resolve import resolve
from secbatch.models.resolved import ResolvedModel
from secbatch.models.threads import restored_threads
from secbatch.models.transformers_calls import import_transformers
from secbatch.quiet_matplotlib import check_matplotlib
from secbatch.run_identity import now
from secbatch.store.filesystem import explain
from secbatch.store.lock import hold

if TYPE_CHECKING:
    from secbatch.finetuning.loop import Training


@dataclass(frozen=True)
class FinetuneResult:
    """What a call of `finetune` led to."""

    folder: Path  # of the model
    record: dict[str, Any]  # training.json
    trained: bool  # False: the same training was finished already
    resumed: bool = False  # from a checkpoint

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Figures by side: dev, and test where there is one."""
        metrics: dict[str, dict[str, float]] = self.record["metrics"]
        return metrics


@restored_threads()
def finetune(
    job: FinetuneJob,
    reporter: TrainingReporter | None = None,
    stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
) -> FinetuneResult:
    """Trains as the job says and writes the model to its output; goes on from a checkpoint, or does nothing.

    `stop` is asked between steps: True leaves a checkpoint and raises Interrupted. `overwrite` replaces a model, or
    an unfinished training, of another job in the output. Raises InputError, JobError, ModelError (before anything is
    learned), OutputError, OutputHeldError when another training holds the output.
    """
    reporter = reporter or Silent()
    folder = check_output(job)
    base = resolved_base(job)
    other = compared_job(job)
    data = load_dataset(job)
    compute = choose(job.device, job.precision)
    identity = fingerprint(job, data, base, compute, resolve(other.model.base) if other else None)
    with hold(folder.lock):
        done = folder.record()
        same = done is not None and done.get("fingerprint") == identity
        if done is not None and same and _is_whole(folder, done, job.output, overwrite, reporter):
            folder.tidy()
            return FinetuneResult(folder.path, done, trained=False)
        if not overwrite:
            refuse_others(job, folder, None if same else done, identity)
        unfinished = folder.unfinished()
        if unfinished is not None and unfinished.get("fingerprint") != identity:
            folder.begin_anew()
        if damaged := folder.damaged():
            reporter.notice(f"checkpoint '{damaged}' is damaged, or gone: the training begins anew")
            folder.begin_anew()
        for notice in (*data.notices, *compute.notices):
            reporter.notice(notice)
        compared = None
        if other is not None:
            reporter.notice(f"first, for comparison, the same training from {other.model.base}")
            compared = finetune(other, reporter, stop, overwrite=True).record
            reporter.notice(f"now the training from {job.model.base}")
        parts = job.hyperparameters.gradient_accumulation
        aside, told = aside_of_caller(compute.device), told_where_memory_runs_out(compute, parts)
        with aside, _arithmetic(compute.device), told:
            return _train(job, data, base, compute, folder, identity, reporter, stop, compared)


def _is_whole(
    folder: ModelFolder, done: dict[str, Any], output: str, overwrite: bool, reporter: TrainingReporter
) -> bool:
    """Whether the model of the record `done` is there as it was written; where not, it is to be trained again.

    Raises OutputError for one that somebody may have changed, unless `overwrite`.
    """
    lost = folder.lost(done)
    changed = None if lost else folder.changed(done)
    if lost is None and changed is None:
        return True
    if lost is None and not overwrite:
        raise OutputError(
            f"output '{output}' holds the model of this training, but not its {changed} as written:"
            " damaged, or changed by somebody; put it right, or have it trained again with --overwrite"
        )
    what = f"lost {lost} of" if lost else f"another {changed} than"
    reporter.notice(f"output '{output}' has {what} its finished model, which is trained again")
    return False


def compared_job(job: FinetuneJob) -> FinetuneJob | None:
    """The same training from `model.compare`; its model stays in the working folder until this one is finished."""
    if job.model.compare is None:
        return None
    output = str(ModelFolder(job.output).work / COMPARED)
    return job.model_copy(update={"model": Base(base=job.model.compare), "output": output})


def refuse_others(job: FinetuneJob, folder: ModelFolder, done: dict[str, Any] | None, identity: str) -> None:
    """Raises JobError where the output holds another job's model, of the record `done`, or its unfinished training."""
    if done is not None:
        raise JobError(
            f"output '{job.output}' holds a model of another training (job '{done.get('name')}', finished"
            f" {done.get('finished')}: other data, base or hyperparameters); choose another output, or replace it"
            " with --overwrite"
        )
    unfinished = folder.unfinished()
    if unfinished is not None and unfinished.get("fingerprint") != identity:
        raise JobError(
            f"output '{job.output}' holds an unfinished training with other data, base or hyperparameters;"
            " choose another output, or drop it with --overwrite"
        )


def check_output(job: FinetuneJob) -> ModelFolder:
    """The output folder. Raises JobError and OutputError where no model can go, JobError for missing libraries.

    SecbatchError where the curve could not be drawn, which is done when all is learned.
    """
    check_extra("a training", ["sklearn", "matplotlib"], "finetune")
    if job.hyperparameters.lora:
        check_extra("hyperparameters.lora", ["peft"], "lora")
    check_matplotlib()
    folder = ModelFolder(job.output)
    folder.check_ours()
    return folder


def resolved_base(job: FinetuneJob) -> ResolvedModel:
    """The base, which must not be the output; one that a training wrote has the licence of its own base."""
    base = resolve(job.model.base, job.model.revision)
    if base.folder == ModelFolder(job.output).path.resolve():
        raise JobError(f"output '{job.output}' is the base model's own folder; choose another")
    record = trained_record(base.folder)
    return replace(base, licence=record["base"].get("licence")) if record and base.licence is None else base


@contextmanager
def aside_of_caller(device: str) -> Iterator[None]:
    """Gradients, precision and random numbers as the job says, wherever it is called; the caller's go on as before."""
    import torch

    gpus = range(torch.cuda.device_count()) if device != "cpu" else ()  # a seed is one for all of them
    exact = torch.autocast(device.partition(":")[0], enabled=False)
    with torch.random.fork_rng(gpus), torch.inference_mode(False), torch.enable_grad(), exact:
        yield


@contextmanager
def _arithmetic(device: str) -> Iterator[None]:
    """The processor's settings for a training; the caller's come back at its end."""
    import torch

    if device == "cpu":
        flushed = float_info.min / 2 == 0.0
        torch.set_flush_denormal(True)  # moments of rarely seen entries underflow, and subnormal arithmetic is slow
        try:
            yield
        finally:
            torch.set_flush_denormal(flushed)
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _train(
    job: FinetuneJob,
    data: Dataset,
    base: ResolvedModel,
    compute: Compute,
    folder: ModelFolder,
    identity: str,
    reporter: TrainingReporter,
    stop: Callable[[], bool],
    compared: dict[str, Any] | None,
) -> FinetuneResult:
    import_transformers()

    import numpy as np

    from secbatch.finetuning.adapters import Adapters
    from secbatch.finetuning.batches import plan_training
    from secbatch.finetuning.build import build
    from secbatch.finetuning.evaluator import evaluator
    from secbatch.finetuning.loop import Training
    from secbatch.finetuning.network import build_network
    from secbatch.finetuning.optimizer import build_optimizer, head_rate, learning_rate
    from secbatch.finetuning.record import make_record

    started = now()
    wanted = job.settled()
    built = build(job, data, base, compute)
    for notice in built.notices:
        reporter.notice(notice)
    rate = learning_rate(wanted, built.model)
    adapters = Adapters(built.model, wanted.lora) if wanted.lora else None
    named = {name: p for name, p in built.model.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(built.model, named, wanted, built.new_head, rate)
    assert wanted.epochs is not None and wanted.batch_tokens is not None
    lengths = np.array([item.length for item in built.items["train"]])
    plan = plan_training(lengths, wanted.batch_tokens, wanted.epochs, wanted.seed)
    sample = built.objective.batch(built.items["train"][:4], np.random.default_rng(0))
    network = build_network(
        built.model, compute.device, built.tokenizer.pad_id, sample, built.objective.whole_sequences
    )
    evaluators = {
        name: evaluator(built.objective, network, side.examples, built.items[name], compute, stop)
        for name, side in data.sides.items()
        if name != "train"
    }
    training = Training(
        job, network, built.objective, optimizer, named, plan, built.items["train"], evaluators["dev"], compute,
        folder.checkpoints, identity,
    )  # fmt: skip
    resumed = training.resume()
    if resumed:
        _say_how_it_goes_on(training, plan.steps, compute, reporter)
    elif not built.new_head:
        training.state.before = evaluators["dev"]().metrics
    training.run(reporter, stop)
    training.take_best()
    try:
        evaluations = {name: evaluate() for name, evaluate in evaluators.items()}
    except Interrupted:
        training.keep()
        raise
    model = adapters.merge() if adapters else built.model
    rates = {"learning_rate": rate, **({"head_learning_rate": head_rate(wanted, rate)} if built.new_head else {})}
    record = make_record(job, data, base, built, compute, training.state, evaluations, rates, identity, started, now())
    record["compared"] = compared and _as_compared(compared)
    _write(folder, model, built.tokenizer.hf, record)
    return FinetuneResult(folder.path, record, trained=True, resumed=resumed)


def _as_compared(record: dict[str, Any]) -> dict[str, Any]:
    """What the record of a training says of the training that it is compared with."""
    return {
        "base": record["base"]["name"],
        "weights_hash": record["base"]["weights_hash"],
        "metrics": record["metrics"],
        "best_epoch": record["best_epoch"],
    }


def _say_how_it_goes_on(training: "Training", steps: int, compute: Compute, reporter: TrainingReporter) -> None:
    import torch

    reporter.notice(f"the training goes on after step {training.state.step:,} of {steps:,}")
    threads = training.threads_before, torch.get_num_threads()
    if compute.device == "cpu" and threads[0] != threads[1]:
        reporter.notice(
            f"it began with {threads[0]} threads and goes on with {threads[1]}: sums are taken in another order, so"
            " the weights will not be those of an uninterrupted training to the last bit"
        )


def _write(folder: ModelFolder, model: Any, tokenizer: Any, record: dict[str, Any]) -> None:
    from safetensors import SafetensorError

    from secbatch.finetuning.checkpoint import as_os_error

    staging = folder.staging()
    model.cpu().eval()
    try:
        _fill(staging, model, tokenizer, record)
    except SafetensorError as error:
        raise explain(as_os_error(error), staging) from None
    except OSError as error:
        raise explain(error, staging) from None
    folder.finish(staging)


def _fill(staging: Path, model: Any, tokenizer: Any, record: dict[str, Any]) -> None:
    from secbatch.finetuning.card import CURVE, model_card
    from secbatch.finetuning.curve import draw_curve
    from secbatch.models.content_hash import tokenizer_hash, weights_hash
    from secbatch.models.transformers_calls import quiet

    with quiet():
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    # Written for the owner alone; a model is for those that may read the rest.
    for file in staging.glob("*.safetensors"):
        file.chmod((staging / "config.json").stat().st_mode)
    record |= {"weights_hash": weights_hash(staging), "tokenizer_hash": tokenizer_hash(staging)}
    draw_curve(record, staging / CURVE)
    record["files"] = sorted([*(file.name for file in staging.iterdir()), "README.md", RECORD])
    (staging / "README.md").write_text(model_card(record), encoding="utf-8")
    (staging / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
