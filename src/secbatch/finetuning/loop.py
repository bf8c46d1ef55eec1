"""The training loop: a pure function of data, job and seed, that can stop after any step and go on from there."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from secbatch.errors import Interrupted, SecbatchError, counted
from secbatch.finetune_job import LOWER_IS_BETTER, FinetuneJob
from secbatch.finetuning.autocast import autocast
from secbatch.finetuning.averaging import AveragedWeights
from secbatch.finetuning.batches import Plan, parts_of
from secbatch.finetuning.checkpoint import Checkpoints, optimizer_tensors, restore_optimizer
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import Evaluation, Objective
from secbatch.finetuning.optimizer import rate_factor, set_rates
from secbatch.finetuning.order_of_sums import NO_FIXED_ORDER, fixed_order
from secbatch.finetuning.progress import INTERRUPTED, Progress, State
from secbatch.finetuning.reporting import TrainingReporter
from secbatch.models.device import Compute

TOLD_SECONDS = 0.5  # between two words on how it goes
WORTH_KEEPING = 10.0  # seconds of training since the last checkpoint


class Training:
    """One training, from its start or a checkpoint to the weights of its best epoch."""

    def __init__(
        self,
        job: FinetuneJob,
        network: Network,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        named: dict[str, torch.nn.Parameter],
        plan: Plan,
        items: Sequence[Item],
        evaluate: Callable[[], Evaluation],
        compute: Compute,
        checkpoints: Checkpoints,
        fingerprint: str,
    ) -> None:
        self.state = State()
        self.threads_before: int | None = None  # of the run whose checkpoint was taken up
        self._job, self._wanted = job, job.settled()
        self._network, self._objective = network, objective
        self._optimizer, self._named = optimizer, named
        self._plan, self._items = plan, items
        self._evaluate, self._compute = evaluate, compute
        self._checkpoints, self._fingerprint = checkpoints, fingerprint
        averaging = self._wanted.averaging
        self._average = AveragedWeights(named, averaging.decay) if averaging else None
        self._loss = torch.zeros((), dtype=torch.float64, device=compute.device)  # of the epoch under way

    def resume(self) -> bool:
        """Takes up the newest checkpoint, if there is one."""
        found = self._checkpoints.read()
        if found is None:
            return False
        with self._checkpoints.readable():  # a file of it may be gone, or be another training's
            self._take_up(*found)
        if self.state.step:
            self._set_rates(self.state.step - 1)  # told of the epoch when all its steps are done
        return True

    def _take_up(self, state: dict[str, Any], tensors: dict[str, dict[str, torch.Tensor]]) -> None:
        self.threads_before = state.get("threads")
        self.state = State(**{key: state[key] for key in State.__dataclass_fields__})
        self._loss.fill_(self.state.loss_sum)
        with torch.no_grad():
            for name, value in tensors["weights"].items():
                self._named[name].copy_(value)
        restore_optimizer(self._optimizer, self._named, tensors["optimizer"])
        if self._average:
            for name, value in tensors["average"].items():
                self._average.values[name].copy_(value)

    def _set_rates(self, step: int) -> None:
        wanted = self._wanted
        set_rates(self._optimizer, rate_factor(step, self._plan.steps, wanted.warmup, wanted.schedule))

    def run(self, reporter: TrainingReporter, stop: Callable[[], bool]) -> None:
        """Trains to the end. Raises Interrupted, behind a checkpoint, when `stop` says so."""
        state, wanted = self.state, self._wanted
        saved = time.monotonic()
        told = 0.0
        stopping = wanted.early_stopping
        self._settle_order(reporter)
        while state.epoch < len(self._plan.epochs) and not (stopping and state.stale >= stopping.patience):
            steps = self._plan.epochs[state.epoch]
            self._network.model.train()
            while state.position < len(steps):
                if stop():
                    self._write_checkpoint()
                    raise Interrupted(INTERRUPTED)
                begin = time.monotonic()
                self._step(steps[state.position])
                now = time.monotonic()
                state.seconds += now - begin
                if now - told > TOLD_SECONDS:
                    told = now
                    reporter.progress(self._progress())
                if now - saved >= self._job.checkpoint_seconds:
                    self._write_checkpoint()
                    saved = time.monotonic()
            try:
                self._end_epoch(reporter)
            except Interrupted:
                self._write_checkpoint()  # the epoch's steps are done; its evaluation comes again
                raise
        if time.monotonic() - saved > WORTH_KEEPING:
            self._write_checkpoint()  # what is left to do may be interrupted, too

    def _step(self, numbers: np.ndarray) -> None:
        state, wanted = self.state, self._wanted
        # All chance is a function of the step: a resumed training draws what an uninterrupted one draws.
        self._network.begin_step(_seed(wanted.seed, state.step))
        random = np.random.default_rng([wanted.seed, 1, state.step])
        parts = [
            self._objective.batch([self._items[number] for number in part], random)
            for part in parts_of(numbers, wanted.gradient_accumulation)
        ]
        total = sum(part.weight for part in parts) or 1.0
        for part in parts:
            loss = self._loss_of(part) * (part.weight / total)
            loss.backward()
            self._loss += loss.detach()
            state.tokens += part.tokens
        self._clip()
        self._set_rates(state.step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.position += 1
        if self._average:
            self._average.update(state.step)

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        with autocast(self._compute):
            return self._objective.loss(self._network, batch)

    def _settle_order(self, reporter: TrainingReporter) -> None:
        """Has a GPU take sums in one order, as far as that can be; tried on the first items."""
        if self._compute.device == "cpu":
            return
        first = parts_of(self._plan.epochs[0][0], self._wanted.gradient_accumulation)[0]
        batch = self._objective.batch([self._items[number] for number in first], np.random.default_rng(0))
        if not fixed_order(lambda: self._loss_of(batch)):
            reporter.notice(NO_FIXED_ORDER)
        self._optimizer.zero_grad(set_to_none=True)

    def _clip(self) -> None:
        """Gradients longer than `max_gradient`, all together, are cut to it."""
        gradients = [parameter.grad for parameter in self._named.values() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._compute.device == "cpu":
            if not math.isfinite(float(norm)):
                raise self._diverged(f"at step {self.state.step + 1}")
            if norm <= self._wanted.max_gradient:
                return  # spares a pass over all of them
        else:
            # What is no number is told at the end of the epoch, also of its last step: to ask a GPU would wait for it.
            self._loss += norm - norm
        torch.nn.utils.clip_grads_with_norm_(list(self._named.values()), self._wanted.max_gradient, norm)

    def _diverged(self, when: str) -> SecbatchError:
        return SecbatchError(
            f"the training diverged {when} (loss or gradient is no number); lower"
            " hyperparameters.learning_rate"
            + ("" if self.state.step else ", or take another base: its weights may be broken")
        )

    def _end_epoch(self, reporter: TrainingReporter) -> None:
        state, wanted = self.state, self._wanted
        loss = float(self._loss) / max(1, state.position)
        if not math.isfinite(loss):
            raise self._diverged(f"by step {state.step}")
        with self._average.in_place() if self._average else nullcontext():
            evaluation = self._evaluate()
            value = evaluation.metrics[self._job.metric]
            loss_on_dev = evaluation.metrics["loss"]
            if not math.isfinite(loss_on_dev):  # the last step's weights had no step after them to show it
                raise self._diverged(f"by step {state.step}")
            better = state.best is None or _better(self._job.metric, value, loss_on_dev, state.best)
            if better:
                checksum = self._checkpoints.write_best(state.epoch + 1, dict(self._named))
                state.best = {"epoch": state.epoch + 1, "value": value, "loss": loss_on_dev, "checksum": checksum}
        state.stale = 0 if better else state.stale + 1
        entry = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "learning_rate": max(group["lr"] for group in self._optimizer.param_groups),
            "train_loss": loss,
            "dev": evaluation.metrics,
        }
        state.history.append(entry)
        state.epoch, state.position, state.loss_sum = state.epoch + 1, 0, 0.0
        self._loss.zero_()
        reporter.evaluated(entry, better, self._job.metric)
        left = len(self._plan.epochs) - state.epoch
        if left and wanted.early_stopping and state.stale >= wanted.early_stopping.patience:
            reporter.notice(
                f"{self._job.metric} on dev has not become better for {counted(state.stale, 'epoch')};"
                " the training ends here"
            )

    def take_best(self) -> None:
        """The weights of the best epoch, into the model."""
        best = self.state.best
        assert best is not None
        with torch.no_grad():
            for name, value in self._checkpoints.read_best(best["epoch"], best["checksum"]).items():
                self._named[name].copy_(value)

    def keep(self) -> None:
        """A checkpoint of what is done: all of it, where the figures of the best epoch are still to come."""
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        self.state.loss_sum = float(self._loss)
        tensors = {"weights": dict(self._named), "optimizer": optimizer_tensors(self._optimizer, self._named)}
        if self._average:
            tensors["average"] = self._average.values
        about = {"fingerprint": self._fingerprint, "threads": torch.get_num_threads()}
        self._checkpoints.write({**asdict(self.state), **about}, tensors)  # type: ignore[arg-type]

    def _progress(self) -> Progress:
        state, steps = self.state, self._plan.steps
        left = state.seconds / state.step * (steps - state.step)
        loss = float(self._loss) / max(1, state.position)
        speed = state.tokens / state.seconds
        return Progress(state.step, steps, state.epoch + 1, len(self._plan.epochs), loss, speed, left)


def _better(metric: str, value: float, loss: float, best: dict[str, Any]) -> bool:
    """Of two epochs with the same figure, the one with the lower loss is the better."""
    if value == best["value"]:
        return bool(loss < best["loss"])
    return bool(value < best["value"] if metric in LOWER_IS_BETTER else value > best["value"])


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, 2, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
