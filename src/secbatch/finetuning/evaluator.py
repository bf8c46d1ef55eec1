"""A model as it is at some moment, measured on examples."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from secbatch.errors import Interrupted
from secbatch.finetuning.autocast import autocast
from secbatch.finetuning.batches import plan_evaluation
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import EVALUATION_TOKENS, Evaluation, Objective
from secbatch.finetuning.progress import INTERRUPTED
from secbatch.models.device import Compute


def evaluator(
    objective: Objective,
    network: Network,
    examples: Sequence[Any],
    items: Sequence[Item],
    compute: Compute,
    stop: Callable[[], bool],
) -> Callable[[], Evaluation]:
    """A function that evaluates the network as it is at that moment."""
    plan = plan_evaluation(np.array([item.length for item in items]), EVALUATION_TOKENS)

    def batches() -> Iterator[Batch]:
        for numbers in plan:
            if stop():
                raise Interrupted(INTERRUPTED)
            yield objective.batch([items[number] for number in numbers], None)

    def evaluate() -> Evaluation:
        was_training = network.model.training
        network.model.eval()
        try:
            with torch.no_grad(), autocast(compute):
                return objective.evaluate(network, examples, batches)
        finally:
            network.model.train(was_training)

    return evaluate
