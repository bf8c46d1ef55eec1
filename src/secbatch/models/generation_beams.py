"""Several sequences a row: beam search, and beam sampling."""

import torch
from torch import Tensor

from secbatch.models.generation_loop import Loop
from secbatch.models.generation_scores import apply_rules, largest, narrow
from secbatch.models.generation_steps import NO_TOKEN

FAR_BELOW = -1e9  # what a beam that must not be chosen gets on top of its score, as in transformers


class BeamLoop(Loop):
    """Beam search with the stopping rules of transformers 5, row by row.

    A row ends when no open beam can still beat its worst finished one, when it has K finished beams and
    `early_stopping` is true, or when it is as long as it may be: the moment at which it would end alone.
    """

    def begin(self) -> None:
        places, beams = len(self.rows), self.copies
        self.longest = max(start.limit for start in self.starts)
        self.running = torch.empty(places, beams, dtype=torch.float32, device=self.device)  # summed log probabilities
        self.finished_scores = torch.empty(places, beams, dtype=torch.float32, device=self.device)
        self.finished = torch.empty(places, beams, dtype=torch.bool, device=self.device)
        self.improvable = torch.empty(places, dtype=torch.bool, device=self.device)
        self.finished_tokens = torch.empty(places, beams, self.longest, dtype=torch.long, device=self.device)
        self.generators = [torch.Generator() for _ in self.rows]
        self.enter(torch.arange(places, device=self.device))

    def enter(self, places: Tensor) -> None:
        self.running[places] = FAR_BELOW
        self.running[places, 0] = 0.0  # at first all beams of a row are the same: only one of them may be continued
        self.finished_scores[places], self.finished[places] = FAR_BELOW, False
        self.improvable[places], self.finished_tokens[places] = True, NO_TOKEN
        for place in places.tolist() if self.settings.do_sample else ():
            self.generators[place] = torch.Generator().manual_seed(self.starts[self.rows[place]].seed)

    def select(self, places: Tensor) -> None:
        self.running, self.improvable = self.running[places], self.improvable[places]
        self.finished, self.finished_scores = self.finished[places], self.finished_scores[places]
        self.finished_tokens = self.finished_tokens[places]
        self.generators = [self.generators[place] for place in places.tolist()]

    def choose(self, logits: Tensor) -> Tensor:
        settings, beams, rows = self.settings, self.copies, len(self.rows)
        counts = self.count
        log_probs = logits.log_softmax(-1)
        self.broken |= ~self.done & log_probs[:, 0].isnan().view(rows, beams).any(-1)
        apply_rules(settings, log_probs, self.history, counts.repeat_interleave(beams), self.facts)
        if settings.do_sample:
            log_probs = narrow(settings, log_probs)
        if settings.renormalize:
            log_probs = log_probs.log_softmax(-1)
        vocabulary = log_probs.shape[1]
        totals = log_probs.view(rows, beams, vocabulary).add_(self.running[..., None]).view(rows, -1)
        scores, chosen = self._candidates(totals, max(2, 1 + len(settings.end_tokens)) * beams)  # [B, C]
        beam, token = chosen // vocabulary, chosen % vocabulary
        source = beam + torch.arange(rows, device=self.device)[:, None] * beams  # [B, C], into B * K
        new = counts[:, None] + 1
        limit = self.facts.limit.view(rows, beams)[:, :1]
        ends = (new >= limit).expand_as(token).clone()
        for end in settings.end_tokens:
            ends |= token == end

        # open beams: the best candidates that did not end
        self.running, best = (scores + ends.float() * FAR_BELOW).topk(beams)
        if self.device.type != "cpu" or bool(ends.any()):  # asking a GPU would wait for it
            self._merge_finished(scores, source, token, ends, new)
        source, tokens = source.gather(1, best).view(-1), token.gather(1, best).view(-1)
        self.history = torch.cat([self.history[source], tokens[:, None]], 1)
        self.steps.reorder(source)
        self._end_rows(ends, new)
        return tokens

    def _candidates(self, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if not self.settings.do_sample:
            return largest(totals, count)
        probabilities = totals.softmax(-1).nan_to_num(0.0).cpu()
        # a row without a number (it will be given up) still needs something to draw from
        probabilities[probabilities.sum(-1) == 0] = 1.0
        drawn = [
            torch.multinomial(row, count, generator=generator)
            for row, generator in zip(probabilities, self.generators, strict=True)
        ]
        chosen = torch.stack(drawn).to(totals.device)
        return totals.gather(1, chosen), chosen

    def _merge_finished(self, scores: Tensor, source: Tensor, token: Tensor, ends: Tensor, new: Tensor) -> None:
        """Keeps the K best finished sequences of each row, those that end at this step among them.

        scores, source, token, ends: [B, C] candidates, best first. new: [B, 1], their new tokens.
        """
        settings, beams = self.settings, self.copies
        # candidates past the first K only keep the search going, they are no results
        ends = ends & (torch.arange(ends.shape[1], device=self.device) < beams)
        full = self.finished.all(-1) & (settings.early_stopping is True)
        scores = scores / _power(new, settings.length_penalty)
        scores = scores + (full | self.done | ~self.improvable)[:, None].float() * FAR_BELOW
        scores = scores + (~ends).float() * FAR_BELOW
        self.finished_scores, kept = torch.cat([self.finished_scores, scores], 1).topk(beams)
        merged = torch.cat([self.finished_tokens, self._new_tokens(source, token, new)], 1)
        self.finished_tokens = merged.gather(1, kept[..., None].expand(-1, -1, self.longest))
        self.finished = torch.cat([self.finished, ends], 1).gather(1, kept)

    def _new_tokens(self, source: Tensor, token: Tensor, new: Tensor) -> Tensor:
        """[B, C, longest]: the new tokens of each candidate, NO_TOKEN after them."""
        position = torch.arange(self.longest, device=self.device)  # [T]
        width = self.history.shape[1]
        column = (position + width - (new - 1)).clamp(0, width - 1)  # [B, T], into the history
        before = self.history[source].gather(2, column[:, None].expand(-1, token.shape[1], -1))
        tokens = torch.where(position == new[..., None] - 1, token[..., None], before)
        return tokens.masked_fill(position >= new[..., None], NO_TOKEN)

    def _end_rows(self, ends: Tensor, new: Tensor) -> None:
        settings = self.settings
        length = new
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            length = self.facts.limit.view(len(self.rows), -1)[:, :1]
        best_possible = self.running[:, :1] / _power(length, settings.length_penalty)
        worst = torch.where(self.finished, self.finished_scores.amin(1, keepdim=True), FAR_BELOW)
        self.improvable &= (best_possible > worst).any(-1)
        full = self.finished.all(-1) & (settings.early_stopping is True)
        self.done |= self.broken | ~self.improvable | full | ends.all(-1)

    def made(self, places: Tensor) -> Tensor:
        return self.finished_tokens[places, 0]


def _power(length: Tensor, exponent: float) -> Tensor:
    """float32, rounded once: what Python's float gives transformers."""
    return length.double().pow(exponent).float()
