"""The loop that trains the masked LM: a schedule by the clock, replicas on a CPU, checkpoints to go on from."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secbatch.training.masked_lm_batches import MaskedBatch
from secbatch.training.masked_lm_model import masked_loss
from secbatch.training.replicas import Replicas

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM

LOG_SECONDS = 20
LOSS_MEMORY = 0.98  # of the moving average that is logged
MAXIMUM_GRADIENT = 1.0


@dataclass(frozen=True)
class TrainingSettings:
    """What a run is made of; the defaults are those of the shipped weights.

    A step takes ``pieces`` batches of at most ``token_budget`` padded tokens. For the share ``head_only`` of the
    minutes the encoder rests and only head and embeddings learn.
    """

    minutes: float = 74.0
    token_budget: int = 512
    pieces: int = 4
    replicas: int = 2
    body_rate: float = 6e-4
    head_rate: float = 1e-3
    warm_up: float = 0.02
    head_only: float = 0.04
    weight_decay: float = 0.01
    minimum_count: int = 4
    maximum_added: int = 6_000
    seed: int = 17
    checkpoint_minutes: float = 5.0


@dataclass
class Progress:
    """What a run has done so far; kept in checkpoints. ``masked`` counts predicted tokens."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    masked: int = 0
    loss: float = 0.0


def tell(line: str) -> None:
    """One line of progress on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def learning_rate_factor(fraction: float, start: float, warm_up: float) -> float:
    """Zero before ``start``, then linear warm-up, on a cosine that reaches zero when the minutes are over.

    ``fraction`` is the share of the minutes that is over, ``start`` and ``warm_up`` are shares as well.
    """
    if fraction < start:
        return 0.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return cosine * min(1.0, 0.02 + (fraction - start) / warm_up)


def parameter_groups(model: BertForMaskedLM, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Head, embeddings and encoder with their learning rates and starts; no weight decay on biases, norms and
    embeddings."""
    groups: dict[tuple[float, float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        rate = settings.head_rate if name.startswith("cls.") else settings.body_rate
        start = settings.head_only if name.startswith("bert.encoder.") else 0.0
        decay = settings.weight_decay if parameter.dim() == 2 and "embeddings" not in name else 0.0
        groups.setdefault((rate, start, decay), []).append(parameter)
    return [
        {"params": parameters, "base": rate, "start": start, "weight_decay": decay}
        for (rate, start, decay), parameters in groups.items()
    ]


def device_and_precision() -> tuple[torch.device, torch.dtype]:
    """CUDA with bfloat16 where there is one; bfloat16 on a CPU only with AMX, elsewhere it is far slower."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    cpu = Path("/proc/cpuinfo")
    amx = cpu.is_file() and "amx_bf16" in cpu.read_text()
    return torch.device("cpu"), torch.bfloat16 if amx else torch.float32


class CheckpointError(Exception):
    """A checkpoint that cannot be gone on from, in one sentence."""


def train(
    model: BertForMaskedLM,
    batches: Iterator[MaskedBatch],
    settings: TrainingSettings,
    checkpoint: Path | None,
    vocabulary: str = "",
) -> Progress:
    """Train until the minutes are over, going on from ``checkpoint`` when it exists.

    ``vocabulary`` is a hash of the entries: other files in the corpus give as many entries, and others. Raises
    ``CheckpointError``.
    """
    import torch

    device, precision = device_and_precision()
    torch.nn.Module.to(model, device)
    model.train()
    if device.type == "cpu":
        torch.set_num_threads(1)
        # Moments of rarely seen entries can underflow, and subnormal arithmetic is slow.
        torch.set_flush_denormal(True)
    optimiser = torch.optim.AdamW(parameter_groups(model, settings), lr=0.0, betas=(0.9, 0.98), fused=True)
    progress = Progress()
    if checkpoint is not None and checkpoint.is_file():
        progress = read_checkpoint(checkpoint, model, optimiser, device, vocabulary)
        tell(f"resumed after {progress.seconds / 60:.1f} minutes, step {progress.steps}")
    budget = settings.minutes * 60
    fraction = 0.0
    predicted = 0

    def backward(replica: BertForMaskedLM, batch: MaskedBatch) -> float:
        ids, attention, positions, labels = (
            torch.from_numpy(array).to(device) for array in (batch.ids, batch.attention, batch.positions, batch.labels)
        )
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
            loss = masked_loss(replica, ids, attention, positions, labels, train_body=fraction >= settings.head_only)
        loss = loss * (len(batch.labels) / predicted)
        loss.backward()
        return float(loss.detach())

    count = settings.replicas if device.type == "cpu" else 1
    replicas: Replicas[MaskedBatch] = Replicas(model, count, backward)
    logged = saved_at = clock = time.monotonic()
    logged_tokens = progress.tokens
    while progress.seconds < budget:
        pieces = [next(batches) for _ in range(settings.pieces)]
        predicted = sum(len(piece.labels) for piece in pieces)
        fraction = progress.seconds / budget
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * learning_rate_factor(fraction, group["start"], settings.warm_up)
        value = replicas.step(pieces)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAXIMUM_GRADIENT)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        now = time.monotonic()
        progress.seconds += now - clock
        clock = now
        progress.steps += 1
        progress.tokens += sum(piece.tokens for piece in pieces)
        progress.masked += predicted
        progress.loss = value if progress.steps == 1 else LOSS_MEMORY * progress.loss + (1 - LOSS_MEMORY) * value
        if now - logged > LOG_SECONDS:
            speed = (progress.tokens - logged_tokens) / (now - logged)
            logged, logged_tokens = now, progress.tokens
            tell(
                f"{progress.seconds / 60:.1f}/{settings.minutes:g} min, step {progress.steps}, "
                f"{progress.tokens / 1e6:.2f} M tokens, {speed:.0f} tokens/s, loss {progress.loss:.3f}"
            )
        if checkpoint is not None and now - saved_at > settings.checkpoint_minutes * 60:
            saved_at = now
            write_checkpoint(checkpoint, model, optimiser, progress, vocabulary)
    if checkpoint is not None:
        write_checkpoint(checkpoint, model, optimiser, progress, vocabulary)
    torch.nn.Module.to(model, "cpu")
    model.eval()
    return progress


def read_checkpoint(
    path: Path, model: BertForMaskedLM, optimiser: Any, device: torch.device, vocabulary: str
) -> Progress:
    """Weights and moments from a checkpoint; learning rates stay those of the settings. Raises ``CheckpointError``."""
    import torch

    rates = [(group["base"], group["start"]) for group in optimiser.param_groups]
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        if saved["vocabulary"] != vocabulary:
            raise CheckpointError(
                f"checkpoint {path} has another vocabulary, as the corpus was another; remove it to begin anew"
            )
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        progress = Progress(**saved["progress"])
    except CheckpointError:
        raise
    except Exception as error:  # whatever torch says of a file that is none
        raise CheckpointError(
            f"checkpoint {path} is none of this training ({type(error).__name__}); remove it to begin anew"
        ) from error
    for group, (base, start) in zip(optimiser.param_groups, rates, strict=True):
        group.update(base=base, start=start)
    return progress


def write_checkpoint(
    path: Path, model: BertForMaskedLM, optimiser: Any, progress: Progress, vocabulary: str = ""
) -> None:
    """Write to a neighbour, then rename, so that a kill leaves the last good checkpoint."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "progress": asdict(progress)}
    torch.save({**state, "vocabulary": vocabulary}, partial)
    partial.replace(path)
