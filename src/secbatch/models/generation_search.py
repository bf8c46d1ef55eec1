"""Choosing tokens for a batch: the best one, one drawn at random, or the best of several beams.

Each row leaves with the tokens that it gets alone: rules, stopping and random numbers are its own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secbatch.models.generation_scores import NO_TOKEN, RowFacts, apply_rules, narrow
from secbatch.models.generation_settings import GenerationSettings
from secbatch.models.generation_steps import Steps, pad

NOT_FINITE = "the model gave scores that are not numbers (NaN or infinite) for this row"
FAR_BELOW = -1e9  # what a beam that must not be chosen gets on top of its score, as in transformers

# A finished row costs its place until the batch is compacted; compacting costs a copy of keys and values.
COMPACT_AT = 0.25


@dataclass(frozen=True)
class Start:
    """One row to generate for."""

    prompt: list[int]  # of the encoder, or of the decoder in a decoder-only model
    limit: int  # the most new tokens
    seed: int  # of the row's own random numbers


@dataclass(frozen=True)
class Answer:
    """New tokens up to the first end token, which is left out; or why there are none."""

    tokens: list[int]
    error: str | None = None


def search(
    steps: Steps, starts: list[Start], settings: GenerationSettings, device: "torch.device | str"
) -> list[Answer]:
    """Answers in the order of `starts` (which must fit in one batch)."""
    loop = _Beams if settings.num_beams > 1 else _Tokens
    return loop(steps, starts, settings, device).run()


def cut_at_end(tokens: list[int], end_tokens: tuple[int, ...]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in end_tokens or token == NO_TOKEN:
            return tokens[:place]
    return tokens


class _Loop:
    """Bookkeeping of a batch of B rows with K sequences each: who is left, and who is whose row."""

    def __init__(
        self, steps: Steps, starts: list[Start], settings: GenerationSettings, device: "torch.device | str"
    ) -> None:
        self.steps, self.settings, self.device = steps, settings, device
        self.starts = starts
        self.answers: list[Answer | None] = [None] * len(starts)
        self.rows = list(range(len(starts)))  # which start each row of the batch is
        prompts = [start.prompt for start in starts]
        encoder = settings.decoder_start_token_id is not None
        decoder = [[settings.decoder_start_token_id or 0]] * len(starts) if encoder else prompts
        wants_encoder = encoder and settings.encoder_no_repeat_ngram_size > 0
        self.history = pad(decoder, NO_TOKEN, left=True, device=device)  # [B * K, L]
        self.facts = RowFacts(
            prompt_length=torch.tensor([len(ids) for ids in decoder], device=device),
            limit=torch.tensor([start.limit for start in starts], device=device),
            encoder_ids=pad(prompts, NO_TOKEN, left=False, device=device) if wants_encoder else None,
        )
        self.new_tokens = 0

    def run(self) -> list[Answer]:
        logits = self.steps.start([start.prompt for start in self.starts])
        logits = self.begin(logits)
        while True:
            tokens = self.choose(logits)
            self.new_tokens += 1
            left = [row for row, start in enumerate(self.rows) if self.answers[start] is None]
            if not left:
                return [answer for answer in self.answers if answer is not None]
            # a row at its limit must go at once: its positions may have run out
            at_limit = min(self.starts[start].limit for start in self.rows) <= self.new_tokens
            if at_limit or len(left) <= len(self.rows) * (1 - COMPACT_AT):
                tokens = self.compact(torch.tensor(left, device=self.device), tokens)
            logits = self.steps.step(tokens)

    def begin(self, logits: Tensor) -> Tensor:
        return logits

    def choose(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def compact(self, rows: Tensor, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def random(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def finish(self, row: int, answer: Answer) -> None:
        if self.answers[self.rows[row]] is None:
            self.answers[self.rows[row]] = answer


class _Tokens(_Loop):
    """Greedy search, and sampling by inverting the cumulated probabilities: one random number a token."""

    def begin(self, logits: Tensor) -> Tensor:
        if self.settings.do_sample:
            # drawn on the CPU, all at once, so that they depend on the row's seed alone
            draws = [
                torch.rand(start.limit, generator=self.random(start.seed), dtype=torch.float64)
                for start in self.starts
            ]
            self.draws = torch.nn.utils.rnn.pad_sequence(draws, batch_first=True).to(self.device)  # [B, most]
        return logits

    def choose(self, logits: Tensor) -> Tensor:
        scores = apply_rules(self.settings, logits, self.history, self.new_tokens, self.facts)
        if self.settings.do_sample:
            cumulated = narrow(self.settings, scores).double().softmax(-1).cumsum(-1)  # [B, V]
            draw = self.draws[:, self.new_tokens, None] * cumulated[:, -1:]
            tokens = torch.searchsorted(cumulated, draw, right=True)[:, 0].clamp(max=scores.shape[1] - 1)
        else:
            tokens = scores.argmax(-1)
        self.history = torch.cat([self.history, tokens[:, None]], 1)
        broken = ~(logits.amax(-1) < math.inf)  # amax hands on NaN
        ended = self.facts.limit <= self.new_tokens + 1
        for token in self.settings.end_tokens:
            ended |= tokens == token
        for row in (broken | ended).nonzero()[:, 0].tolist():
            if bool(broken[row]):
                self.finish(row, Answer([], NOT_FINITE))
            else:
                new = self.history[row, self.history.shape[1] - self.new_tokens - 1 :].tolist()
                self.finish(row, Answer(cut_at_end(new, self.settings.end_tokens)))
        return tokens

    def compact(self, rows: Tensor, tokens: Tensor) -> Tensor:
        self.steps.keep(rows)
        self.rows = [self.rows[row] for row in rows.tolist()]
        self.history, self.facts = self.history[rows], self.facts.select(rows)
        if self.settings.do_sample:
            self.draws = self.draws[rows]
        return tokens[rows]


class _Beams(_Loop):
    """Beam search (and beam sampling) with the stopping rules of transformers 5, row by row.

    A row ends when no open beam can still beat its worst finished one, when it has K finished beams and
    `early_stopping` is true, or when it is as long as it may be: the moment at which it would end alone.
    """

    def begin(self, logits: Tensor) -> Tensor:
        beams, rows = self.settings.num_beams, len(self.starts)
        self.steps.spread(beams)
        self.history = self.history.repeat_interleave(beams, 0)
        self.facts = self.facts.select(torch.arange(rows, device=self.device).repeat_interleave(beams))
        # at first all beams of a row are the same: only one of them may be continued
        self.running = torch.zeros(rows, beams, device=self.device)
        self.running[:, 1:] = FAR_BELOW
        self.finished_scores = torch.full((rows, beams), FAR_BELOW, device=self.device)
        self.finished = torch.zeros(rows, beams, dtype=torch.bool, device=self.device)
        self.improvable = torch.ones(rows, dtype=torch.bool, device=self.device)
        longest = max(start.limit for start in self.starts)
        self.finished_tokens = torch.full((rows, beams, longest), NO_TOKEN, device=self.device)
        if self.settings.do_sample:
            self.generators = [self.random(start.seed) for start in self.starts]
        return logits.repeat_interleave(beams, 0)

    def choose(self, logits: Tensor) -> Tensor:
        settings, beams, rows = self.settings, self.settings.num_beams, len(self.rows)
        log_probs = logits.log_softmax(-1)
        broken = log_probs[:, 0].isnan().view(rows, beams).any(-1)
        log_probs = apply_rules(settings, log_probs, self.history, self.new_tokens, self.facts)
        if settings.do_sample:
            log_probs = narrow(settings, log_probs)
        vocabulary = log_probs.shape[1]
        totals = (log_probs.view(rows, beams, vocabulary) + self.running[..., None]).view(rows, -1)
        scores, chosen = self._candidates(totals, max(2, 1 + len(settings.end_tokens)) * beams)  # [B, C]
        beam, token = chosen // vocabulary, chosen % vocabulary
        source = beam + torch.arange(rows, device=self.device)[:, None] * beams  # [B, C], into B * K
        new = self.new_tokens + 1
        limit = self.facts.limit.view(rows, beams)[:, :1]
        ends = (new >= limit).expand_as(token).clone()
        for end in settings.end_tokens:
            ends |= token == end

        # open beams: the best candidates that did not end
        open_scores = scores + ends.float() * FAR_BELOW
        self.running, best = open_scores.topk(beams)
        self._merge_finished(scores, source, token, ends, new)
        source, tokens = source.gather(1, best).view(-1), token.gather(1, best).view(-1)
        self.history = torch.cat([self.history[source], tokens[:, None]], 1)
        self.steps.reorder(source)
        self._end_rows(broken, ends, new)
        return tokens

    def _candidates(self, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if not self.settings.do_sample:
            return tuple(totals.topk(count))  # type: ignore[return-value]
        probabilities = totals.softmax(-1).cpu()
        drawn = [
            torch.multinomial(row, count, generator=generator)
            for row, generator in zip(probabilities, self.generators, strict=True)
        ]
        chosen = torch.stack(drawn).to(totals.device)
        return totals.gather(1, chosen), chosen

    def _merge_finished(self, scores: Tensor, source: Tensor, token: Tensor, ends: Tensor, new: int) -> None:
        """Keeps the K best finished sequences of each row, those that end at this step among them."""
        beams, settings = self.settings.num_beams, self.settings
        # candidates past the first K only keep the search going, they are no results
        ends = ends & (torch.arange(ends.shape[1], device=self.device) < beams)
        full = self.finished.all(-1) & (settings.early_stopping is True)
        scores = scores / new**settings.length_penalty
        scores = scores + (full | ~self.improvable)[:, None].float() * FAR_BELOW
        scores = scores + (~ends).float() * FAR_BELOW
        history = self.history[:, self.history.shape[1] - (new - 1) :][source]  # [B, C, new - 1]
        tokens = torch.full((*token.shape, self.finished_tokens.shape[2]), NO_TOKEN, device=self.device)
        tokens[..., : new - 1], tokens[..., new - 1] = history, token
        self.finished_scores, kept = torch.cat([self.finished_scores, scores], 1).topk(beams)
        merged = torch.cat([self.finished_tokens, tokens], 1)
        self.finished_tokens = merged.gather(1, kept[..., None].expand(-1, -1, merged.shape[2]))
        self.finished = torch.cat([self.finished, ends], 1).gather(1, kept)

    def _end_rows(self, broken: Tensor, ends: Tensor, new: int) -> None:
        settings = self.settings
        length: Tensor | int = new
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            length = self.facts.limit.view(len(self.rows), -1)[:, :1]
        best_possible = self.running[:, :1] / length**settings.length_penalty
        worst = torch.where(self.finished, self.finished_scores.amin(1, keepdim=True), FAR_BELOW)
        self.improvable &= (best_possible > worst).any(-1)
        done = ~self.improvable | (self.finished.all(-1) & (settings.early_stopping is True)) | ends.all(-1)
        for row in (broken | done).nonzero()[:, 0].tolist():
            if bool(broken[row]):
                self.finish(row, Answer([], NOT_FINITE))
            else:
                tokens = self.finished_tokens[row, 0].tolist()
                self.finish(row, Answer(cut_at_end(tokens, settings.end_tokens)))

    def compact(self, rows: Tensor, tokens: Tensor) -> Tensor:
        beams = self.settings.num_beams
        sequences = (rows[:, None] * beams + torch.arange(beams, device=self.device)).view(-1)
        self.steps.keep(sequences)
        self.rows = [self.rows[row] for row in rows.tolist()]
        self.history, self.facts = self.history[sequences], self.facts.select(sequences)
        self.running, self.improvable = self.running[rows], self.improvable[rows]
        self.finished, self.finished_scores = self.finished[rows], self.finished_scores[rows]
        self.finished_tokens = self.finished_tokens[rows]
        if self.settings.do_sample:
            self.generators = [self.generators[row] for row in rows.tolist()]
        return tokens[sequences]
