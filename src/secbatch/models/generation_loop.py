"""The loop around a batch: rows that finish leave it, waiting rows take their places.

How a token is chosen is up to the subclasses (`generation_tokens`, `generation_beams`). Each row leaves with
the tokens that it gets alone: rules, stopping and random numbers are its own.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from secbatch.models.generation_batch import Answer, Batch, cut_at_end
from secbatch.models.generation_scores import RowFacts
from secbatch.models.generation_settings import GenerationSettings
from secbatch.models.generation_steps import NO_TOKEN, EnteringSteps, Steps, pad

NOT_FINITE = "the model gave scores that are not numbers (NaN or infinite) for this row"

# A finished row keeps its place until this share of places can be filled: a small encoder batch has a cost of its own.
REFILL_AT = 0.125
# Steps between two looks at which rows are through. On a GPU each look waits for it to come to rest; a row that
# is through in between goes on for nothing.
LOOK_EVERY = {"cpu": 1, "cuda": 4}


def in_front(left: list[int]) -> list[int]:
    """`left`, ascending, in an order in which as many as can be stay where they are; the last ones fill the holes."""
    staying = {place for place in left if place < len(left)}
    movers = iter(left[len(staying) :])
    return [place if place in staying else next(movers) for place in range(len(left))]


class Loop(ABC):
    """B places with K sequences each (K beams, or 1), the rows that sit in them and those that wait."""

    def __init__(
        self, steps: Steps, batch: Batch, settings: GenerationSettings, places: int, device: torch.device
    ) -> None:
        """`batch`: more rows than `places` only for `EnteringSteps`."""
        self.steps, self.batch, self.settings, self.device = steps, batch, settings, device
        self.starts, self.answers = batch.starts, batch.answers
        self.entering = steps if isinstance(steps, EnteringSteps) else None
        self.rows = list(range(min(places, len(self.starts))))  # which start sits in each place
        self.waiting = list(range(len(self.rows), len(self.starts)))
        self.new = [0] * len(self.rows)  # new tokens in each place
        self.count = torch.zeros(len(self.rows), dtype=torch.long, device=device)  # [B] the same, on the device
        self.done = torch.zeros(len(self.rows), dtype=torch.bool, device=device)  # [B] rows that are through
        self.broken = self.done.clone()  # [B] of these: rows whose scores are no numbers
        self.look_every = LOOK_EVERY.get(device.type, 1)
        self.copies, self.steps_taken, self.places = settings.num_beams, 0, len(self.rows)
        self.history = torch.empty(0)  # [B * K, L] int64, ending at the newest token; see apply_rules
        self.facts: RowFacts

    def run(self) -> None:
        """Puts an answer in its place in the batch as soon as a row is through."""
        self._ask()
        try:
            self._run()
        except (RuntimeError, MemoryError):
            self._ask()  # for what it had come to want
            raise

    def _run(self) -> None:
        self.history, self.facts = self._fresh(self.rows)
        self.begin()
        logits = self.steps.start([self.starts[row].prompt for row in self.rows], self.copies)
        while True:
            self.batch.got()
            tokens = self.choose(logits)  # [B * K]
            self.steps_taken += 1
            self.count = self.count + 1
            self.new = [n + 1 for n in self.new]
            if self._look():
                free = self._collect()
                self.batch.came_to(self.new)
                if len(free) == len(self.rows) and not self.waiting:
                    return
                if self.waiting and self.entering:
                    if len(free) >= max(1, len(self.rows) * REFILL_AT):
                        self._refill(self.entering, free[: len(self.waiting)], tokens)
                elif free and (self._at_limit(free) or len(free) >= len(self.rows) * self.steps.shrink_at):
                    tokens = self._shrink([place for place in range(len(self.rows)) if self.is_open(place)], tokens)
            self._trim()
            self._ask()
            logits = self.steps.step(tokens)

    def _ask(self) -> None:
        longest = len(self.starts[0].prompt)
        of_a_row = longest + self.entering.slots if self.entering else self.copies * (longest + self.steps_taken)
        self.batch.asks(longest, self.places, len(self.rows) * of_a_row)

    def _look(self) -> bool:
        """Whether rows may have ended that must not go on, or it is time."""
        taken = self.new if self.entering else [self.steps_taken] * len(self.rows)
        ends = any(n >= self.starts[row].limit for n, row in zip(taken, self.rows, strict=True))
        return ends or self.steps_taken % self.look_every == 0

    def _collect(self) -> list[int]:
        """Answers of rows that are through; the places of all that are. It waits for the device."""
        done, broken = torch.stack([self.done, self.broken]).tolist()
        through = [place for place in range(len(self.rows)) if done[place] and self.is_open(place)]
        self.batch.through += len(through)
        if through:
            made = self.made(torch.tensor(through, device=self.device)).tolist()
            for place, tokens in zip(through, made, strict=True):
                tokens = tokens[: self.starts[self.rows[place]].limit]
                answer = Answer(cut_at_end(tokens, self.settings.end_tokens))
                self.answers[self.rows[place]] = Answer([], NOT_FINITE) if broken[place] else answer
        free = [place for place in range(len(self.rows)) if not self.is_open(place)]
        # a finished row counts from 0 again, so that it never reaches past its positions
        self.new = [n if self.is_open(place) else 0 for place, n in enumerate(self.new)]
        self.count = self.count.masked_fill(self.done, 0)
        return free

    @abstractmethod
    def begin(self) -> None:
        """Prepares what the subclass keeps of each place, for the rows that sit there."""

    @abstractmethod
    def choose(self, logits: Tensor) -> Tensor:
        """Tokens [B * K] after logits [B * K, V]; makes `history` longer and marks rows that end in `done`.

        A row that is through goes on until it is collected, and keeps what it had when it ended.
        """

    @abstractmethod
    def made(self, places: Tensor) -> Tensor:
        """New tokens [B', T] of the rows in `places` [B'], which are through; what follows an end is no part of it."""

    @abstractmethod
    def enter(self, places: Tensor) -> None:
        """New rows sit in `places` [B']: their state begins anew."""

    @abstractmethod
    def select(self, places: Tensor) -> None:
        """Only `places` [B'] stay."""

    def is_open(self, place: int) -> bool:
        return self.answers[self.rows[place]] is None

    def sequences(self, places: Tensor) -> Tensor:
        """[B' * K]: the sequences of `places` [B']."""
        return (places[:, None] * self.copies + torch.arange(self.copies, device=self.device)).view(-1)

    def _fresh(self, rows: list[int]) -> tuple[Tensor, RowFacts]:
        """History and facts of rows that have no new token yet, K copies of each."""
        starts = [self.starts[row] for row in rows]
        start_token = self.settings.decoder_start_token_id
        decoder = [start.prompt for start in starts] if start_token is None else [[start_token]] * len(starts)
        encoder_ids = None
        if self.settings.encoder_no_repeat_ngram_size > 0:
            encoder_ids = pad([start.prompt for start in starts], NO_TOKEN, left=False, device=self.device)
        facts = RowFacts(
            prompt_length=torch.tensor([len(ids) for ids in decoder], device=self.device),
            limit=torch.tensor([start.limit for start in starts], device=self.device),
            encoder_ids=encoder_ids,
        )
        copies = torch.arange(len(rows), device=self.device).repeat_interleave(self.copies)
        return pad(decoder, NO_TOKEN, left=True, device=self.device)[copies], facts.select(copies)

    def _refill(self, steps: EnteringSteps, places: list[int], tokens: Tensor) -> None:
        """Waiting rows take `places`; their first token goes into `tokens` [B * K]."""
        for place in places:
            self.rows[place], self.new[place] = self.waiting.pop(0), 0
        history, facts = self._fresh([self.rows[place] for place in places])
        entering = torch.tensor(places, device=self.device)
        sequences = self.sequences(entering)
        self.count[entering], self.done[entering], self.broken[entering] = 0, False, False
        self.history[sequences] = NO_TOKEN
        self.history[sequences, -1:] = history
        self.facts.put(sequences, facts)
        tokens[sequences] = history[:, -1]
        steps.enter(places, [self.starts[self.rows[place]].prompt for place in places])
        self.enter(entering)

    def _shrink(self, left: list[int], tokens: Tensor) -> Tensor:
        """Only the rows in the places `left`, ascending, stay."""
        left = in_front(left)
        places = torch.tensor(left, device=self.device)
        sequences = self.sequences(places)
        self.steps.keep(sequences)
        self.rows, self.new = [self.rows[place] for place in left], [self.new[place] for place in left]
        self.count, self.done, self.broken = self.count[places], self.done[places], self.broken[places]
        self.history, self.facts = self.history[sequences], self.facts.select(sequences)
        self.select(places)
        return tokens[sequences]

    def _at_limit(self, free: list[int]) -> bool:
        """Whether a finished row has come to the end of its positions: it can take no other step."""
        if self.entering:  # positions are its own business
            return False
        return min(self.starts[self.rows[place]].limit for place in free) <= self.steps_taken

    def _trim(self) -> None:
        """Drops the columns of the history that only rows that have left needed."""
        decoder_only = self.settings.decoder_start_token_id is None
        longest = max(
            n + (len(self.starts[self.rows[place]].prompt) if decoder_only else 1) for place, n in enumerate(self.new)
        )
        self.history = self.history[:, -longest:]
