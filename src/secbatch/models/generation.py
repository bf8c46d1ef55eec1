"""Batched generation that gives each prompt, in float32, the tokens that it gets alone.

Greedy search, beam search and sampling, for sequence-to-sequence and decoder-only models of transformers.
Prompts of like length share a batch; finished rows leave it, and in Blenderbot's waiting rows take their places
(transformers' own caches hold rows of one length). What the batched loops do not know (see
`generation_settings.STOCK_ONLY`, and models that give something else in batches: `generation_trial`) goes through
transformers' own `generate`, one prompt at a time (`generation_stock`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from secbatch.models.configuration import changes_beyond
from secbatch.models.generation_batch import Answer, Batch, Start
from secbatch.models.generation_beams import BeamLoop
from secbatch.models.generation_blenderbot import BlenderbotDecoder, BlenderbotSteps, is_blenderbot
from secbatch.models.generation_settings import GenerationSettings
from secbatch.models.generation_steps import DecoderSteps, EncoderDecoderSteps, Steps
from secbatch.models.generation_stock import generate_alone
from secbatch.models.generation_tokens import TokenLoop
from secbatch.models.generation_trial import batched_way, lay_out_layers
from secbatch.models.memory_patience import MemoryPatience, Next
from secbatch.models.out_of_memory import give_back, is_out_of_memory
from secbatch.work_done import work_in_hand

# Positions of keys and values in one batch (sequences times their longest length). A CPU's matrix products are
# near their peak from about 300 sequences on (measured; 32 questions with Blenderbot's 10 beams), and more rows
# only make those that finish early wait. A GPU wants many rows to be busy.
CPU_BUDGET = 32_768
CUDA_BUDGET = 262_144


@dataclass(frozen=True)
class Prompt:
    """Token ids as the model gets them, and the seed of the row's own random numbers (used when sampling)."""

    tokens: list[int]
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """Answers in the order of the prompts, and how many positions were worked on for it."""

    answers: list[Answer]
    tokens: int  # prompt and new tokens
    padding: int  # padded prompt positions besides


class Generator:
    """Generates for lists of prompts with one loaded model."""

    def __init__(
        self,
        model: Any,
        settings: GenerationSettings,
        budget: int | None = None,
        tokenizer: Any = None,
        owned: bool = False,
    ) -> None:
        """`model`: a transformers model for (conditional) generation, in eval mode on its device. It generates a few
        tokens, and what it raises then is not caught; `check_settings` comes first.

        `tokenizer`: transformers' tokenizer, which only `stop_strings` of a model's generation config needs.
        `owned`: nobody else uses the model, so that on a CPU its weights can be laid out anew, and are not kept twice.
        """
        self.model, self.settings, self.tokenizer = model, settings, tokenizer
        self.encoder_decoder = bool(model.config.is_encoder_decoder)
        self.budget = budget or (CUDA_BUDGET if model.device.type == "cuda" else CPU_BUDGET)
        self._patience = MemoryPatience(f"the device {model.device}")
        self._answers = self._answer_tokens = 0  # so far
        self.stock = bool(settings.stock)  # one prompt at a time, by transformers' own loop
        self.refills = is_blenderbot(model) and not self.stock
        self._decoder = BlenderbotDecoder(model, owned) if self.refills else None
        self.pads = True  # whether a batch may hold prompts of different lengths
        self._beyond = changes_beyond(model.config)
        if not (self.stock or self.refills):
            if owned and model.device.type == "cpu":
                lay_out_layers(model)
            way = batched_way(model, self._stock_steps)
            self.stock, self.pads = way == "alone", way == "padded"

    @property
    def head_width(self) -> int | None:
        """Of heads that look back through `generation_attention.attention`."""
        return None if self._decoder is None else self._decoder.head_width

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt]) -> Generated:
        """Answers for `prompts`. A row that cannot be done has its reason in `error`."""
        answers: list[Answer | None] = [self._refusal(prompt) for prompt in prompts]
        starts = [self._start(prompt) for prompt in prompts]
        self._padding = 0
        todo = [place for place, answer in enumerate(answers) if answer is None]
        todo.sort(key=lambda place: -len(starts[place].prompt))
        work_done = work_in_hand()
        alone: list[int] = []  # rows for which there was no memory even alone, longest first
        last = False
        while todo or (alone and not last):
            if not todo:  # all others are through; the shortest has the best chance
                todo, alone, last = alone[::-1], [], True
            places, at_once = self._next(starts, todo, last)
            usual = self._answer_tokens / self._answers if self._answer_tokens else None
            batch = Batch([starts[place] for place in places], work_done.part(len(places) / len(prompts)), usual)
            ran_out = self._ran_out_of_memory(batch)
            for place, answer in zip(places, batch.answers, strict=True):
                answers[place] = answer
            left = [place for place in places if answers[place] is None]
            todo = left + todo[len(places) :]
            self._note(batch)
            work_done.reached(1 - (len(todo) + len(alone)) / len(prompts))
            if len(left) < len(places):
                self._patience.went_through(batch.had_room)
            if not (ran_out and left):
                continue
            match self._patience.after_failure(batch.wanted, min(at_once, len(left)) == 1, last):
                case Next.AGAIN:
                    pass
                case Next.FEWER:
                    self.budget = max(1, min(self.budget, at_once * self._positions(batch.starts[0])) // 2)
                case Next.LATER:
                    alone.append(todo.pop(0))
                case Next.NEVER:
                    start = starts[todo[0]]
                    most = len(start.prompt) + start.limit
                    lack = self._patience.lack(batch.wanted)
                    answers[todo.pop(0)] = Answer([], f"prompt and answer have up to {most} tokens, {lack}")
        whole = [answer for answer in answers if answer is not None]
        tokens = sum(len(prompt.tokens) for prompt in prompts) + sum(len(answer.tokens) for answer in whole)
        return Generated(whole, tokens, self._padding)

    def _note(self, batch: Batch) -> None:
        """How long its answers are: by that it is told how far others are."""
        made = [len(answer.tokens) for answer in batch.answers if answer is not None and answer.error is None]
        self._answers, self._answer_tokens = self._answers + len(made), self._answer_tokens + sum(made)

    def _start(self, prompt: Prompt) -> Start:
        decoder_length = 1 if self.encoder_decoder else len(prompt.tokens)
        return Start(prompt.tokens, self.settings.new_token_limit(decoder_length), prompt.seed)

    def _refusal(self, prompt: Prompt) -> Answer | None:
        # A tokenizer can have more entries than the model: such an id would end the whole batch.
        if not prompt.tokens:
            return Answer([], "the tokenizer leaves nothing of the question")
        if max(prompt.tokens) < self._entries:
            return None
        return Answer([], f"the tokenizer gives token {max(prompt.tokens)}, but the model has only {self._entries}")

    def _next(self, starts: list[Start], todo: list[int], alone: bool) -> tuple[list[int], int]:
        """The first of `todo`, longest prompts first, that make a batch; and how many of them sit in it at a time.

        A pure function of its arguments and the budget. `alone`: one row, whatever the budget.
        """
        first = starts[todo[0]]
        single = alone or self._is_alone(first)
        at_once = 1 if single else max(1, self.budget // self._positions(first))
        places = todo if self.refills and at_once > 1 else todo[:at_once]
        if not self.pads:
            places = [place for place in places if len(starts[place].prompt) == len(first.prompt)]
        return places, min(at_once, len(places))

    def _is_alone(self, start: Start) -> bool:
        """Whether a row goes through transformers' own loop: of a batch's rows the first one tells, as the longest.

        It does where the model works in another way before the row is through: `generate` then begins anew.
        """
        longest = len(start.prompt) + (0 if self.encoder_decoder else start.limit - 1)
        return self.stock or (self._beyond is not None and longest > self._beyond)

    def _positions(self, start: Start) -> int:
        """Positions of keys and values that a row may come to."""
        return self.settings.num_beams * (len(start.prompt) + start.limit)

    def _ran_out_of_memory(self, batch: Batch) -> bool:
        """Works on a batch until its rows have their answers, or there is no memory to go on with."""
        try:
            if self._is_alone(batch.starts[0]):
                self._alone(batch)
            else:
                self._together(batch)
            return False
        except (RuntimeError, MemoryError) as problem:
            if not _is_out_of_memory(problem):
                raise
        # out of the except block, so that the failed batch's tensors are free
        give_back(self.model.device)
        return True

    def _together(self, batch: Batch) -> None:
        starts, start_token = batch.starts, self.settings.decoder_start_token_id
        places, steps = len(starts), self._stock_steps()
        if self._decoder is not None and start_token is not None:
            places = max(1, self.budget // self._positions(starts[0]))
            longest = max(start.limit for start in starts)
            steps = BlenderbotSteps(self._decoder, start_token, self._pad_token, longest)
        loop = BeamLoop if self.settings.num_beams > 1 else TokenLoop
        try:
            loop(steps, batch, self.settings, places, self.model.device).run()
        finally:
            self._padding += steps.padding

    @property
    def _pad_token(self) -> int:
        """What stands where nobody looks: the model's padding, or any token where that is none that it knows, as -1."""
        token = self.model.generation_config.pad_token_id
        return token if token is not None and 0 <= token < self._entries else 0

    @property
    def _entries(self) -> int:
        """How many tokens the model knows."""
        return int(self.model.get_input_embeddings().num_embeddings)

    def _stock_steps(self, at_once: int | None = None) -> Steps:
        """A model of transformers, with nothing in it yet. `at_once`: prompt tokens that it reads together on a CPU."""
        start_token = self.settings.decoder_start_token_id
        if start_token is None:
            return DecoderSteps(self.model, self._pad_token, at_once)
        return EncoderDecoderSteps(self.model, start_token, self._pad_token, at_once)

    def _alone(self, batch: Batch) -> None:
        """One row, by transformers' own loop."""
        (start,) = batch.starts
        batch.asks(len(start.prompt), 1, self._positions(start))
        made = generate_alone(self.model, self.settings, start.prompt, start.seed, self.tokenizer)
        batch.got()
        batch.answers[0] = Answer(made)


def _is_out_of_memory(problem: BaseException) -> bool:
    if is_out_of_memory(problem):
        return True
    # a recording that ran out of memory may say only that it was broken off
    return problem.__context__ is not None and _is_out_of_memory(problem.__context__)
