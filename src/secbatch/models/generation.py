"""Batched generation that gives each prompt, in float32, the tokens that it gets alone.

Greedy search, beam search and sampling, for sequence-to-sequence and decoder-only models of transformers.
Prompts of like length share a batch; finished rows leave it, and in Blenderbot's waiting rows take their places
(transformers' own caches hold rows of one length). What the batched loops do not know (see
`generation_settings.STOCK_ONLY`, and models whose state is no cache of keys and values) goes through
transformers' own `generate`, one prompt at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from secbatch.models.generation_beams import BeamLoop
from secbatch.models.generation_blenderbot import BlenderbotDecoder, BlenderbotSteps, is_blenderbot
from secbatch.models.generation_loop import Answer, Start, cut_at_end
from secbatch.models.generation_settings import GenerationSettings
from secbatch.models.generation_steps import DecoderSteps, EncoderDecoderSteps, NoKeysAndValuesError, Steps
from secbatch.models.generation_tokens import TokenLoop
from secbatch.models.out_of_memory import is_out_of_memory

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
        """`model`: a transformers model for (conditional) generation, in eval mode on its device.

        `tokenizer`: transformers' tokenizer, which only `stop_strings` of a model's generation config needs.
        `owned`: nobody else uses the model, so that weights that are laid out anew need not be kept twice.
        """
        self.model, self.settings, self.tokenizer = model, settings, tokenizer
        self.encoder_decoder = bool(model.config.is_encoder_decoder)
        self.budget = budget or (CUDA_BUDGET if model.device.type == "cuda" else CPU_BUDGET)
        self.stock = bool(settings.stock) or bool(getattr(model, "_is_stateful", False))
        self.refills = is_blenderbot(model) and not self.stock
        self._decoder = BlenderbotDecoder(model, owned) if self.refills else None
        # A decoder that takes no position ids may count padding as text: batches of equal lengths only.
        self.pads = self.encoder_decoder or DecoderSteps(model, 0).accepts_positions

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt]) -> Generated:
        """Answers for `prompts`. A row that cannot be done has its reason in `error`."""
        answers: list[Answer | None] = [self._refusal(prompt) for prompt in prompts]
        starts = [self._start(prompt) for prompt in prompts]
        self._padding = 0
        for batch in self._batches(starts, [place for place, answer in enumerate(answers) if answer is None]):
            done = self._run([starts[place] for place in batch])
            for place, answer in zip(batch, done, strict=True):
                answers[place] = answer
        whole = [answer for answer in answers if answer is not None]
        tokens = sum(len(prompt.tokens) for prompt in prompts) + sum(len(answer.tokens) for answer in whole)
        return Generated(whole, tokens, self._padding)

    def _start(self, prompt: Prompt) -> Start:
        decoder_length = 1 if self.encoder_decoder else len(prompt.tokens)
        return Start(prompt.tokens, self.settings.new_token_limit(decoder_length), prompt.seed)

    def _refusal(self, prompt: Prompt) -> Answer | None:
        # A tokenizer can have more entries than the model: such an id would end the whole batch.
        if not prompt.tokens:
            return Answer([], "the tokenizer leaves nothing of the question")
        entries = self.model.get_input_embeddings().num_embeddings
        if max(prompt.tokens) < entries:
            return None
        return Answer([], f"the tokenizer gives token {max(prompt.tokens)}, but the model has only {entries}")

    def _batches(self, starts: list[Start], todo: list[int]) -> Iterator[list[int]]:
        """Positions `todo` in `starts`, longest prompts first; a pure function of the two and the budget."""
        order = sorted(todo, key=lambda place: -len(starts[place].prompt))
        taken = 0
        while taken < len(order):
            first = starts[order[taken]]
            size = len(order) if self.refills else 1 if self.stock else self._places(first)
            batch = order[taken : taken + size]
            if not self.pads:
                batch = [place for place in batch if len(starts[place].prompt) == len(first.prompt)]
            yield batch
            taken += len(batch)

    def _places(self, longest: Start) -> int:
        """How many rows as long as `longest` the budget allows at a time."""
        return max(1, self.budget // (self.settings.num_beams * (len(longest.prompt) + longest.limit)))

    def _run(self, starts: list[Start]) -> list[Answer]:
        try:
            return [self._alone(start) for start in starts] if self.stock else self._together(starts)
        except NoKeysAndValuesError:
            self.stock = True
            return [answer for start in starts for answer in self._run([start])]
        except (RuntimeError, MemoryError) as problem:
            if not _is_out_of_memory(problem):
                raise
        # out of the except block, so that the failed batch's tensors are free
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(starts) == 1:
            need = len(starts[0].prompt) + starts[0].limit
            return [Answer([], f"{need} tokens (prompt and answer) do not fit in the device's memory")]
        at_once = min(self._places(starts[0]), len(starts)) if self.refills else len(starts)
        self.budget = max(1, self.budget // 2)
        if self.refills and at_once > 1:
            return self._run(starts)
        half = max(1, at_once // 2)
        return self._run(starts[:half]) + self._run(starts[half:])

    def _together(self, starts: list[Start]) -> list[Answer]:
        """Answers in the order of `starts`, which has the longest prompts first."""
        pad_token = self.model.generation_config.pad_token_id or 0
        start_token = self.settings.decoder_start_token_id
        places = len(starts)
        steps: Steps
        if start_token is None:
            steps = DecoderSteps(self.model, pad_token)
        elif self.refills and self._decoder is not None:
            places = self._places(starts[0])
            steps = BlenderbotSteps(self._decoder, start_token, pad_token, max(s.limit for s in starts))
        else:
            steps = EncoderDecoderSteps(self.model, start_token, pad_token)
        loop = BeamLoop if self.settings.num_beams > 1 else TokenLoop
        answers = loop(steps, starts, self.settings, places, self.model.device).run()
        self._padding += steps.padding
        return answers

    def _alone(self, start: Start) -> Answer:
        """transformers' own `generate`, its random numbers seeded by the row."""
        ids = torch.tensor([start.prompt], device=self.model.device)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(start.seed)
            overrides = dict(self.settings.overrides)
            if self.model.generation_config.stop_strings is not None:
                overrides["tokenizer"] = self.tokenizer
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), **overrides)
        new = out[0, 1 if self.encoder_decoder else len(start.prompt) :].tolist()
        return Answer(cut_at_end(new, self.settings.end_tokens))


def _is_out_of_memory(problem: BaseException) -> bool:
    if is_out_of_memory(problem):
        return True
    # a recording that ran out of memory may say only that it was broken off
    return problem.__context__ is not None and _is_out_of_memory(problem.__context__)
