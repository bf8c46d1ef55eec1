"""AdamW with a learning rate for each layer, and its course over the steps."""

import math
import re
from typing import Any

import torch

from secbatch.finetune_job import Hyperparameters

BETAS = (0.9, 0.999)
SMALL = 40_000_000  # parameters; smaller encoders bear, and need, a higher learning rate
SMALL_RATE, RATE = 2e-4, 5e-5
ADAPTER_RATE = 5e-4  # of adapters (LoRA), which start at nothing
HEAD_FACTOR, HEAD_RATE = 5.0, 1e-3  # learning rate of a new head, to that of the top layer; and at most
_LAYER = re.compile(r"\.(?:layer|layers|h|block|blocks)\.(\d+)\.")


def learning_rate(wanted: Hyperparameters, model: Any) -> float:
    """The rate of the top layer: what the job says, or a default by the model's size."""
    if wanted.learning_rate is not None:
        return wanted.learning_rate
    if wanted.lora:
        return ADAPTER_RATE
    return SMALL_RATE if sum(p.numel() for p in model.parameters()) < SMALL else RATE


def head_rate(wanted: Hyperparameters, rate: float) -> float:
    """The rate of a new head above layers that learn at `rate`."""
    return wanted.head_learning_rate or max(rate, min(HEAD_FACTOR * rate, HEAD_RATE))


def build_optimizer(
    model: Any, named: dict[str, torch.nn.Parameter], wanted: Hyperparameters, new_head: bool, rate: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) over the parameters `named`; `rate` is the top layer's.

    A layer learns `layer_decay` times as fast as the one above it (Howard and Ruder 2018, arXiv:1801.06146), encoder
    and decoder each from its own top; biases and norms do not decay. Each group has its highest rate as `base`.
    """
    of_head = head_rate(wanted, rate) if new_head else wanted.head_learning_rate or rate
    stacks = _stacks(model)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in named.items():
        below = _below_the_top(name, model.base_model_prefix, stacks)
        base = of_head if below is None else rate * wanted.layer_decay**below
        decay = wanted.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((base, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": chosen, "base": base, "weight_decay": decay} for (base, decay), chosen in groups.items()],
        lr=rate,
        betas=BETAS,
        fused=True,
    )


def _stacks(model: Any) -> dict[str, int]:
    """How many layers there are, by what stands before their numbers: ".bert.encoder", ".model.decoder"."""
    stacks: dict[str, int] = {}
    for name, _ in model.named_parameters():
        if match := _LAYER.search(f".{name}"):
            stack = match.string[: match.start()]
            stacks[stack] = max(stacks.get(stack, 0), int(match[1]) + 1)
    return stacks


def _below_the_top(name: str, prefix: str, stacks: dict[str, int]) -> int | None:
    """Layers above: 0 for the top layer, as many as there are for embeddings, None for the head (and its pooler)."""
    match = _LAYER.search(f".{name}")
    if match:
        return stacks[match.string[: match.start()]] - int(match[1]) - 1
    if not name.startswith(f"{prefix}.") or ".pooler." in name:
        return None
    own = (layers for stack, layers in stacks.items() if f".{name}".startswith(f"{stack}."))
    return next(own, max(stacks.values(), default=0)) if "embed" in name else 0


def rate_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Share of the highest rate at `step` (from 0) of `steps`: a rise over the share `warmup`, then the schedule."""
    rising = max(1, round(warmup * steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0 - done


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor
