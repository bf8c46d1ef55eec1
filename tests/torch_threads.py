"""Tiny models gain nothing from threads, and lose much on a busy machine.

Not for what does something else with several threads: encoders in packed blocks, Blenderbot's rows side by side,
compiled attention.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For the folder whose conftest imports it, or the file that does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def single_thread() -> Iterator[None]:
    """The same for one test, which asks for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
