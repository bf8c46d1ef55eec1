"""One sequence a row: the best token at each step, or one drawn at random."""

import math

import torch
from torch import Tensor

from secbatch.models.generation_loop import Loop
from secbatch.models.generation_scores import apply_rules, narrow_to_some
from secbatch.models.generation_steps import NO_TOKEN


class TokenLoop(Loop):
    """Greedy search, and sampling by inverting the cumulated probabilities: one random number a token."""

    def begin(self) -> None:
        self.draws = self._drawn(self.rows)  # [B, most], nothing when not sampling

    def _drawn(self, rows: list[int]) -> Tensor:
        """Random numbers for all steps of `rows`, drawn on the CPU so that they depend on the row's seed alone."""
        longest = max(start.limit for start in self.starts) if self.settings.do_sample else 0
        drawn = torch.zeros(len(rows), longest, dtype=torch.float64)
        for place, row in enumerate(rows if self.settings.do_sample else []):
            start = self.starts[row]
            generator = torch.Generator().manual_seed(start.seed)
            drawn[place, : start.limit] = torch.rand(start.limit, generator=generator, dtype=torch.float64)
        return drawn.to(self.device)

    def choose(self, scores: Tensor) -> Tensor:
        self.broken |= ~self.done & ~(scores.amax(-1) < math.inf)  # amax hands on NaN
        apply_rules(self.settings, scores, self.history, self.count, self.facts)
        if self.settings.do_sample:
            scores, some = narrow_to_some(self.settings, scores)  # [B, V] or fewer
            cumulated = scores.double().softmax(-1).cumsum(-1)
            place = self.count.clamp(max=self.draws.shape[1] - 1)[:, None]
            draw = self.draws.gather(1, place) * cumulated[:, -1:]
            tokens = torch.searchsorted(cumulated, draw, right=True)[:, 0].clamp(max=scores.shape[1] - 1)
            tokens = tokens if some is None else some.gather(1, tokens[:, None])[:, 0]
        else:
            tokens = scores.argmax(-1)
        self.history = torch.cat([self.history, tokens[:, None]], 1)
        self.done |= self.broken | (self.facts.limit <= self.count + 1)
        for token in self.settings.end_tokens:
            self.done |= tokens == token
        return tokens

    def made(self, places: Tensor) -> Tensor:
        width = self.history.shape[1]
        columns = width - self.count[places, None] + torch.arange(width, device=self.device)  # [B', L]
        tokens = self.history[places].gather(1, columns.clamp(max=width - 1))
        return tokens.masked_fill(columns >= width, NO_TOKEN)

    def enter(self, places: Tensor) -> None:
        if self.settings.do_sample:
            self.draws[places] = self._drawn([self.rows[place] for place in places.tolist()])

    def select(self, places: Tensor) -> None:
        self.draws = self.draws[places]
