"""The cache of keys and values against transformers' own."""

from typing import Any

import torch
from transformers import LlamaConfig
from transformers.cache_utils import DynamicCache

from secbatch.models.generation_cache import GrowingLayer, joined, joins


def cache(rows: int, columns: int) -> DynamicCache:
    made = DynamicCache()
    made.update(*drawn(rows, columns), 0)
    return made


def drawn(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of two heads, which may differ in width."""
    return torch.rand(rows, 2, columns, 4), torch.rand(rows, 2, columns, 6)


def states(made: Any) -> list[torch.Tensor]:
    return [made.layers[0].keys, made.layers[0].values]


def test_rows_are_put_together_with_zeros_on_the_left() -> None:
    parts = [cache(1, 5), cache(3, 2)]
    (long, _), (short, _) = (states(part) for part in parts)
    made = joined(parts)
    keys, values = states(made)
    assert keys.shape == (4, 2, 5, 4) and values.shape == (4, 2, 5, 6)
    assert torch.equal(keys[:1], long) and torch.equal(keys[1:, :, 3:], short)
    assert not keys[1:, :, :3].any() and not values[1:, :, :3].any()
    assert parts[1].layers[0].keys is None  # nothing is held twice


def test_new_tokens_are_written_behind_the_others_and_those_stay_in_place() -> None:
    parts = [cache(2, 40)]
    theirs = DynamicCache()
    theirs.update(*states(parts[0]), 0)
    ours = joined(parts)
    assert isinstance(ours.layers[0], GrowingLayer)
    places = set()
    for step in range(12):
        if step == 7:  # rows that go, as the others stand
            ours.reorder_cache(torch.tensor([1, 1, 0]))
            theirs.reorder_cache(torch.tensor([1, 1, 0]))
        new = drawn(3 if step >= 7 else 2, 1)
        for got, wanted in zip(ours.update(*new, 0), theirs.update(*new, 0), strict=True):
            assert torch.equal(got, wanted)
        assert ours.get_seq_length() == theirs.get_seq_length() == 41 + step
        places.add(ours.layers[0].keys.data_ptr())
    # room for a few steps at the beginning and after they were full; each step would move all without it
    assert len(places) <= 4


def test_what_is_held_in_a_way_of_its_own_is_not_put_together() -> None:
    assert joins(cache(1, 3))
    assert not joins(object())
    config = LlamaConfig(num_hidden_layers=1, sliding_window=None)
    assert joins(DynamicCache(config=config))

    class Compressed(type(cache(1, 3).layers[0])):  # type: ignore[misc]
        pass

    unknown = cache(1, 3)
    unknown.layers[0].__class__ = Compressed
    assert not joins(unknown)
