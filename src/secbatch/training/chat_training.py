"""The training loop: teacher forcing on the answers within a budget of wall-clock minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secbatch.training.chat_batches import Batch

if TYPE_CHECKING:
    import torch

# Weights of the first tokens of an answer, which decide which answer it becomes; the others weigh 1.
FIRST_TOKENS = (3.0, 2.0, 2.0)
TOPIC_WEIGHT = 0.3  # of the auxiliary loss
MOST_TERMS, MOST_INTENTS = 1024, 16  # outputs of the auxiliary head, no fewer than there are


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
    """What a training run did; all but ``encoder_minutes`` is of the second stage. ``loss`` is the mean over the
    last hundred steps, in nats a token."""

    minutes: float
    steps: int
    dialogues: int
    tokens: int
    loss: float
    encoder_minutes: float = 0.0


def topic_head(model: Any) -> Any:
    """The auxiliary head: mean encoder state [B, D] to scores of terms and intents [B, MOST_TERMS + MOST_INTENTS]."""
    import torch

    return torch.nn.Linear(model.config.d_model, MOST_TERMS + MOST_INTENTS)


def _mean_state(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1)


def topic_loss(head: Any, states: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float]:
    """(cross-entropy of term and intent from the encoder's states [B, S, D], share of both right)."""
    from torch.nn.functional import cross_entropy

    scores = head(_mean_state(states, batch.source_mask))
    terms, intents = scores[:, :MOST_TERMS], scores[:, MOST_TERMS:]
    loss = cross_entropy(terms, batch.topics[:, 0]) + cross_entropy(intents, batch.topics[:, 1])
    right = (terms.argmax(-1) == batch.topics[:, 0]) & (intents.argmax(-1) == batch.topics[:, 1])
    return loss, float(right.float().mean())


def train_encoder(
    model: Any, head: Any, stream: Iterator[Batch], schedule: Schedule, log: Callable[[str], None]
) -> None:
    """First stage: the encoder and the auxiliary head alone learn which term and intent a question is
    about.

    It costs a tenth of whole steps, and gives the decoder something to look at from its first step on.
    """
    import torch

    encoder = model.model.encoder
    # Rows of the embedding and of the head are met rarely and each says one thing: they may move faster.
    rows = [encoder.embed_tokens.weight, *head.parameters()]
    layers = [p for p in encoder.parameters() if p is not encoder.embed_tokens.weight]
    groups = [{"params": rows, "pace": 3.0}, {"params": layers, "pace": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    parameters = [*rows, *layers]
    start = last_log = time.monotonic()
    step = dialogues = 0
    losses: list[float] = []
    right: list[float] = []
    while (elapsed := time.monotonic() - start) < schedule.seconds:
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = group["pace"] * schedule.rate(step, elapsed)
        states = model.model.encoder(batch.source, batch.source_mask).last_hidden_state
        loss, share = topic_loss(head, states, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, dialogues = step + 1, dialogues + len(batch.source)
        losses.append(float(loss.detach()))
        right.append(share)
        if time.monotonic() - last_log > 20:
            last_log = time.monotonic()
            log(
                f"encoder: {elapsed / 60:.1f} min  step {step}  dialogues {dialogues}  "
                f"loss {sum(losses[-30:]) / len(losses[-30:]):.3f}  right {sum(right[-30:]) / len(right[-30:]):.1%}"
            )


def train(
    model: Any,
    head: Any,
    stream: Iterator[Batch],
    schedule: Schedule,
    log: Callable[[str], None],
    checkpoint: Callable[[TrainingReport], None],
    checkpoint_minutes: float = 10.0,
) -> TrainingReport:
    """Train until the schedule's seconds are over; every ``checkpoint_minutes`` ``checkpoint`` gets the report so far.

    Left to itself the decoder learns the answers by heart from their own beginnings and shuts the encoder out, for
    the question bears on the first few tokens only. So an auxiliary head has to tell from the encoder's mean state
    what is asked about; it is thrown away afterwards.
    AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), gradients clipped at norm 1.
    """
    import torch
    from torch.nn.functional import cross_entropy

    parameters = [*model.parameters(), *head.parameters()]
    decayed = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.peak, betas=(0.9, 0.98), eps=1e-8, fused=True,
    )  # fmt: skip
    model.train()
    start = last_log = last_checkpoint = time.monotonic()
    steps = dialogues = tokens = 0
    losses: list[float] = []
    right: list[float] = []

    def report() -> TrainingReport:
        recent = losses[-100:] or [math.nan]
        return TrainingReport((time.monotonic() - start) / 60, steps, dialogues, tokens, sum(recent) / len(recent))

    while (elapsed := time.monotonic() - start) < schedule.seconds:
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(steps, elapsed)
        outputs = model.model(
            input_ids=batch.source,
            attention_mask=batch.source_mask,
            decoder_input_ids=batch.decoder_input,
            use_cache=False,
        )
        wanted = batch.labels >= 0
        # [N, V]: no work on padding
        logits = model.lm_head(outputs.last_hidden_state[wanted]) + model.final_logits_bias
        each = cross_entropy(logits, batch.labels[wanted], reduction="none")
        weights = torch.ones(batch.labels.shape)
        weights[:, : len(FIRST_TOKENS)] = torch.tensor(FIRST_TOKENS)[: weights.shape[1]]
        weights = weights[wanted]
        auxiliary, share = topic_loss(head, outputs.encoder_last_hidden_state, batch)
        loss = (each * weights).sum() / weights.sum() + TOPIC_WEIGHT * auxiliary
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        steps, dialogues, tokens = steps + 1, dialogues + len(batch.source), tokens + batch.tokens
        losses.append(float(each.detach().mean()))
        right.append(share)
        now = time.monotonic()
        if now - last_log > 30:
            recent = losses[-100:]
            log(
                f"{(now - start) / 60:.1f} min  step {steps}  dialogues {dialogues}  "
                f"tokens/s {tokens / (now - start):.0f}  loss {sum(recent) / len(recent):.3f}  "
                f"topics {sum(right[-100:]) / len(right[-100:]):.1%}"
            )
            last_log = now
        if now - last_checkpoint > checkpoint_minutes * 60:
            checkpoint(report())
            last_checkpoint = now
    model.eval()
    return report()
