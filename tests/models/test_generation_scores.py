"""The largest scores without sorting all of them."""

import math

import pytest
import torch

from secbatch.models.generation_scores import RUN, largest


@pytest.mark.parametrize("width", [30, RUN * 80, RUN * 83 + 5, 8008 * 10])
def test_the_largest_are_those_of_topk(width: int) -> None:
    scores = torch.randn(7, width, generator=torch.Generator().manual_seed(width))
    scores[1] = -math.inf
    scores[2, 5:] = -math.inf  # fewer numbers than asked for
    scores[3] = torch.arange(width)  # the largest ones are neighbours, at the very end
    scores[4, 3] = math.inf
    values, places = largest(scores, 20)
    expected = scores.topk(20)
    assert torch.equal(values, expected.values)
    assert torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == 20 for row in places.tolist())
    for row in (0, 3, 4, 5, 6):
        assert torch.equal(places[row], expected.indices[row])


def test_a_row_without_numbers_harms_no_other() -> None:
    scores = torch.randn(3, RUN * 90, generator=torch.Generator().manual_seed(0))
    scores[1] = math.nan
    values, places = largest(scores, 6)
    assert torch.equal(values[[0, 2]], scores[[0, 2]].topk(6).values)
    assert int(places.min()) >= 0 and int(places.max()) < RUN * 90
