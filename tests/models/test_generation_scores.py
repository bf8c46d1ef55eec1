"""The largest scores without sorting all of them."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from secbatch.models.generation_scores import RUN, largest, narrow, narrow_to_some
from secbatch.models.generation_settings import GenerationSettings, settings_for
from secbatch.task_specs import Generation


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


def sampling(**job: Any) -> GenerationSettings:
    model = GenerationConfig(bos_token_id=1, eos_token_id=2)
    return settings_for(model, Generation(do_sample=True, **job), 2048, False, "a model")


@pytest.mark.parametrize("job", [{}, {"temperature": 0.3}, {"top_p": 0.8}, {"temperature": 0.7, "top_p": 0.95}])
@pytest.mark.parametrize("coarse", [False, True])
def test_what_is_drawn_from_is_looked_for_among_few(job: dict[str, Any], coarse: bool) -> None:
    scores = 3 * torch.randn(12, 3000, generator=torch.Generator().manual_seed(0))
    if coarse:  # as of a model in bfloat16, in which many are equal
        scores = scores.bfloat16().float()
    scores[1, 40:] = -math.inf  # fewer than top-k leaves, had they been numbers
    scores[1, :40] = scores[1, 0]
    settings = sampling(top_k=20, **job)
    whole = narrow(settings, scores)
    some, tokens = narrow_to_some(settings, scores)
    assert tokens is not None and 20 <= tokens.shape[1] <= 60
    assert bool((tokens.diff(dim=1) > 0).all())
    assert torch.equal(torch.full_like(whole, -math.inf).scatter(1, tokens, some), whole)


def test_all_are_drawn_from_where_top_k_leaves_most_of_them() -> None:
    scores = torch.randn(3, 3000, generator=torch.Generator().manual_seed(0))
    scores[1, 5:] = -math.inf  # the twentieth is no number, and so are most
    for settings in (sampling(top_k=20, top_p=0.9), sampling(top_k=2000), replace(sampling(top_p=0.9), top_k=0)):
        some, tokens = narrow_to_some(settings, scores)
        assert tokens is None and torch.equal(some, narrow(settings, scores))


def test_a_row_without_numbers_leaves_others_what_they_are_drawn_from() -> None:
    scores = torch.randn(3, 3000, generator=torch.Generator().manual_seed(0))
    expected = narrow_to_some(sampling(top_k=20), scores)[0]
    scores[1] = math.nan
    some, tokens = narrow_to_some(sampling(top_k=20), scores)
    assert tokens is not None and int(tokens.min()) >= 0 and int(tokens.max()) < 3000
    assert torch.equal(some[[0, 2]], expected[[0, 2]])


def test_which_of_equals_are_drawn_from_does_not_depend_on_other_rows() -> None:
    scores = (3 * torch.randn(200, 3000, generator=torch.Generator().manual_seed(0))).bfloat16().float()
    settings = sampling(top_k=20, top_p=0.8)
    some, tokens = narrow_to_some(settings, scores)
    assert tokens is not None
    for row in range(len(scores)):
        alone, own = narrow_to_some(settings, scores[row : row + 1])
        assert own is not None
        assert own[0][alone[0] > -math.inf].tolist() == tokens[row][some[row] > -math.inf].tolist()
