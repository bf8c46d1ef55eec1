"""The loop as a whole: against a plain one over transformers' own forward, and when it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_jobs import classification_file, job

from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning.batches import plan_training
from secbatch.finetuning.build import build
from secbatch.finetuning.dataset import load_dataset
from secbatch.finetuning.finetune import finetune
from secbatch.finetuning.objective import Evaluation
from secbatch.models.device import choose
from secbatch.models.resolve import resolve
from secbatch.models.resolved import ResolvedModel

Tiny = Callable[[str], ResolvedModel]
DECAY, CLIP, SHRINK, WARMUP, RATE = 0.9, 0.3, 0.1, 0.2, 3e-4


def plain(wanted: FinetuneJob, multi: bool) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    """Of each epoch the mean loss of its steps, and the averaged weights behind it."""
    data = load_dataset(wanted)
    built = build(wanted, data, resolve(wanted.model.base), choose("cpu", "float32"))
    model, items = built.model.train(), built.items["train"]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    named = dict(model.named_parameters())
    matrices = [p for p in named.values() if p.dim() > 1]
    others = [p for p in named.values() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": SHRINK}, {"params": others, "weight_decay": 0.0}]
    )
    texts = len(data.train.examples)
    rows = np.array([sum(label in e.labels for e in data.train.examples) for label in data.labels])
    weights = torch.tensor((texts - rows) / rows if multi else texts / (len(rows) * rows), dtype=torch.float32)
    settled = wanted.settled()
    assert settled.batch_tokens is not None and settled.epochs is not None
    lengths = np.array([item.length for item in items])
    plan = plan_training(lengths, settled.batch_tokens, settled.epochs, settled.seed)
    rising, step = max(1, round(WARMUP * plan.steps)), 0
    average = {name: p.detach().clone() for name, p in named.items()}
    losses, after = [], []
    for epoch in plan.epochs:
        total = 0.0
        for numbers in epoch:
            ids, mask = (torch.zeros(len(numbers), lengths[numbers].max(), dtype=torch.long) for _ in range(2))
            for row, number in enumerate(numbers):
                ids[row, : lengths[number]] = torch.from_numpy(items[number].ids.astype(np.int64))
                mask[row, : lengths[number]] = 1
            logits = model(input_ids=ids, attention_mask=mask).logits
            if multi:
                right = torch.from_numpy(np.stack([items[number].targets for number in numbers])) * 0.8 + 0.1
                loss = F.binary_cross_entropy_with_logits(logits, right, pos_weight=weights)
            else:
                labels = torch.tensor([int(items[number].targets[0]) for number in numbers])
                each = F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
                loss = (each * weights[labels]).sum() / weights[labels].sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(named.values()), CLIP)
            for group in optimizer.param_groups:
                group["lr"] = RATE * min((step + 1) / rising, (plan.steps - max(step, rising)) / (plan.steps - rising))
            optimizer.step()
            step += 1
            decay = min(DECAY, (1 + step) / (10 + step))
            for name, p in named.items():
                average[name] = decay * average[name] + (1 - decay) * p.detach()
            total += loss.item()
        losses.append(total / len(epoch))
        after.append({name: value.clone() for name, value in average.items()})
    return losses, after


@pytest.mark.parametrize(("base", "multi", "parts"), [("bert", False, 1), ("roberta", False, 3), ("roberta", True, 2)])
def test_it_is_a_plain_loop(
    base: str, multi: bool, parts: int, tiny: Tiny, tmp_path: Path, without_curve: None
) -> None:
    data = {**classification_file(tmp_path / "a.csv", multi), "group": None}
    if not multi:  # labels that are not equally frequent
        lines = Path(data["train"]).read_text().splitlines()
        Path(data["train"]).write_text("\n".join(lines[:1] + lines[1::2] + lines[2:20:2]) + "\n")
    wanted = job("classify", tiny(base).folder, data, tmp_path / "out", learning_rate=RATE, head_learning_rate=RATE,
                 layer_decay=1.0, dropout=0.0, max_gradient=CLIP, weight_decay=SHRINK, warmup=WARMUP, epochs=3,
                 averaging={"decay": DECAY}, label_smoothing=0.2, class_weights="balanced", early_stopping=None,
                 gradient_accumulation=parts)  # fmt: skip
    done = finetune(wanted)
    losses, after = plain(wanted, multi)
    assert [entry["train_loss"] for entry in done.record["history"]] == pytest.approx(losses, rel=1e-5)
    kept = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in after[done.record["best_epoch"] - 1].items():
        assert torch.allclose(kept[name], value, atol=3e-4 * float(value.abs().max()) + 1e-6), name


@pytest.mark.parametrize("base", ["roberta", "distilbert"])
def test_steps_have_dropout_and_figures_have_none(base: str, tiny: Tiny, tmp_path: Path, without_curve: None) -> None:
    data, losses = classification_file(tmp_path / "a.csv"), set()
    for share in (0.0, 0.5):
        output = tmp_path / f"out {share}"
        record = finetune(job("classify", tiny(base).folder, data, output, epochs=1, dropout=share)).record
        losses.add(round(record["history"][0]["train_loss"], 4))
        assert record["metrics"]["dev"] == record["history"][0]["dev"]
    assert len(losses) == 2


@pytest.mark.parametrize(
    ("metric", "patience", "values", "losses", "epochs", "best"),
    [
        # Of equal figures the one with the lower loss is better; two epochs that bring nothing end it.
        ("f1_micro", 2, [0.5, 0.7, 0.7, 0.7, 0.6, 0.9], [1.0, 0.9, 0.8, 0.85, 0.1, 0.1], 5, 3),
        ("f1_micro", 2, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6], [1.0] * 6, 6, 5),  # each better one is waited for anew
        ("loss", 1, [0.5, 0.4, 0.9, 0.9, 0.9, 0.9], [1.0, 0.9, 0.95, 0.1, 0.1, 0.1], 3, 2),
    ],
)
def test_it_ends_when_nothing_becomes_better_and_keeps_the_best(
    metric: str, patience: int, values: list[float], losses: list[float], epochs: int, best: int,
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_curve: None,
) -> None:  # fmt: skip
    told = iter(zip([*values, 0.0], [*losses, 0.0], strict=True))

    def evaluator(*_: Any) -> Callable[[], Evaluation]:
        def evaluate() -> Evaluation:
            value, loss = next(told)
            return Evaluation({"f1_micro": value, "loss": loss})

        return evaluate

    monkeypatch.setattr("secbatch.finetuning.evaluator.evaluator", evaluator)
    wanted = job("classify", tiny("bert").folder, classification_file(tmp_path / "a.csv"), tmp_path / "out", epochs=6,
                 batch_tokens=1024, early_stopping={"metric": metric, "patience": patience})  # fmt: skip
    record = finetune(wanted).record
    assert (len(record["history"]), record["best_epoch"]) == (epochs, best)
