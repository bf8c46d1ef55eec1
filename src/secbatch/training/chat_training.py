"""The training loop: teacher forcing on the answers within a budget of wall-clock minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from secbatch.training.chat_batches import Batch


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a budget of seconds: linear warm-up over steps, then half a cosine down to zero."""

    peak: float
    seconds: float
    warmup_steps: int = 150

    def rate(self, step: int, elapsed: float) -> float:
        """The rate at this step (from 0) and this many seconds after the start."""
        progress = min(1.0, elapsed / self.seconds) if self.seconds > 0 else 1.0
        return self.peak * min(1.0, (step + 1) / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did. ``loss`` is the mean over the last hundred steps, in nats a token."""

    minutes: float
    steps: int
    dialogues: int
    tokens: int
    loss: float


def train(
    model: Any,
    stream: Iterator[Batch],
    schedule: Schedule,
    log: Callable[[str], None],
    checkpoint: Callable[[], None],
    checkpoint_minutes: float = 10.0,
) -> TrainingReport:
    """Train until the schedule's seconds are over; ``checkpoint`` is called every ``checkpoint_minutes``.

    AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), gradients clipped at norm 1.
    """
    import torch
    from torch.nn.functional import cross_entropy

    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.peak, betas=(0.9, 0.98), eps=1e-8, fused=True,
    )  # fmt: skip
    model.train()
    start = last_log = last_checkpoint = time.monotonic()
    steps = dialogues = tokens = 0
    losses: list[float] = []
    while (elapsed := time.monotonic() - start) < schedule.seconds:
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(steps, elapsed)
        hidden = model.model(
            input_ids=batch.source,
            attention_mask=batch.source_mask,
            decoder_input_ids=batch.decoder_input,
            use_cache=False,
        ).last_hidden_state  # [B, T, D]
        wanted = batch.labels >= 0
        logits = model.lm_head(hidden[wanted]) + model.final_logits_bias  # [N, V]: no work on padding
        loss = cross_entropy(logits, batch.labels[wanted])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps, dialogues, tokens = steps + 1, dialogues + len(batch.source), tokens + batch.tokens
        losses.append(float(loss.detach()))
        now = time.monotonic()
        if now - last_log > 30:
            recent = losses[-100:]
            log(
                f"{(now - start) / 60:.1f} min  step {steps}  dialogues {dialogues}  "
                f"tokens/s {tokens / (now - start):.0f}  loss {sum(recent) / len(recent):.3f}"
            )
            last_log = now
        if now - last_checkpoint > checkpoint_minutes * 60:
            checkpoint()
            last_checkpoint = now
    model.eval()
    recent = losses[-100:] or [math.nan]
    return TrainingReport(
        (time.monotonic() - start) / 60, steps, dialogues, tokens, sum(recent) / len(recent)
    )
