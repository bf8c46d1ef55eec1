"""How far a training is."""

from dataclasses import dataclass, field
from typing import Any

INTERRUPTED = "Interrupted; the training is kept, run the same command again to go on"


@dataclass
class State:
    """How far a training is; what a checkpoint holds beside tensors."""

    step: int = 0  # steps done
    epoch: int = 0  # epochs done, their evaluation included
    position: int = 0  # steps done of the epoch that is under way
    loss_sum: float = 0.0  # of that epoch
    tokens: int = 0
    seconds: float = 0.0  # in steps
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch
    best: dict[str, Any] | None = None  # epoch (from 1), value, loss, checksum of its weights
    stale: int = 0  # epochs since
    before: dict[str, float] | None = None  # figures of the base on dev, where it has a head


@dataclass(frozen=True)
class Progress:
    step: int  # steps done
    steps: int  # at most, over all epochs
    epoch: int  # from 1
    epochs: int
    loss: float  # mean of the epoch so far
    tokens_per_second: float
    seconds_left: float  # if no epoch is spared
