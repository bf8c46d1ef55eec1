"""A few combinations of parameters for every run of the suite, all of them for `make soak`."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def sampled(share: int, *axes: Sequence[Any]) -> list[Any]:
    """Parameters for all combinations of `axes`; one of `share`, the first and the last are no soak.

    Their places are a Latin square's: each value of an axis comes with each of another that has no more than `share`
    times as many, where `share` is no more than what an axis has.
    """
    places = list(product(*(range(len(axis)) for axis in axes)))
    values = [[axis[number] for axis, number in zip(axes, place, strict=True)] for place in places]
    return [
        pytest.param(
            *those,
            id="-".join(map(str, those)),
            marks=[] if sum(place) % share == 0 or place in (places[0], places[-1]) else [pytest.mark.soak],
        )
        for place, those in zip(places, values, strict=True)
    ]
