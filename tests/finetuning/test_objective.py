"""The loss that trainings with weights of classes take."""

import numpy as np
import pytest
import torch

from secbatch.finetuning.objective import class_weights, cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_is_as_heavy_as_its_class_and_smoothed_over_all_alike(smoothing: float) -> None:
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 0, 0, 1, 0, 0])
    weights = class_weights(np.bincount(targets.numpy()), "balanced")
    assert weights is not None
    logs = logits.double().log_softmax(-1).numpy()
    each = [-(1 - smoothing) * row[target] - smoothing * row.mean() for row, target in zip(logs, targets, strict=True)]
    heavy = weights.double().numpy()[targets]
    wanted = float((np.array(each) * heavy).sum() / heavy.sum())
    assert float(cross_entropy(logits, targets, weights, smoothing)) == pytest.approx(wanted, rel=1e-5)
    # Parts of a step, each by the weight of its targets, add up to it.
    parts = [
        float(cross_entropy(logits[part], targets[part], weights, smoothing)) * float(weights[targets[part]].sum())
        for part in (slice(0, 2), slice(2, 9))
    ]
    assert sum(parts) / float(weights[targets].sum()) == pytest.approx(wanted, rel=1e-5)


def test_smoothing_does_not_draw_to_a_class_that_never_occurs() -> None:
    """As the I- tag of spans that are one token: it has the largest weight of all."""
    weights = class_weights(np.array([900, 100, 0]), "balanced")
    logits = torch.zeros(1000, 3, requires_grad=True)
    targets = torch.tensor([0] * 900 + [1] * 100)
    optimizer = torch.optim.SGD([logits], lr=2000.0)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(logits, targets, weights, 0.1).backward()
        optimizer.step()
    assert torch.equal(logits.argmax(-1), targets)
    assert float(logits.softmax(-1)[:, 2].max().detach()) < 0.05
