"""An exponential moving average of the weights (Polyak and Juditsky 1992; Tarvainen and Valpola, arXiv:1703.01780)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class AveragedWeights:
    """The average of some parameters over the steps; early steps are forgotten faster, so that it starts at once."""

    def __init__(self, named: dict[str, torch.nn.Parameter], decay: float) -> None:
        self._named, self._decay = named, decay
        self.values = {name: parameter.detach().clone() for name, parameter in named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step number `step`, from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.values.values()), [parameter.detach() for parameter in self._named.values()], 1 - decay
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average inside the block, and its own weights again behind it."""
        for name, parameter in self._named.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
        try:
            yield
        finally:
            for name, parameter in self._named.items():
                parameter.data, self.values[name] = self.values[name], parameter.data
