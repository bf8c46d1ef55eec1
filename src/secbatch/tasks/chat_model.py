"""A chat model with everything around it: conversations in, answers as clean text out."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from secbatch.models.generation_settings import (
    DEFAULT_NEW_TOKENS,
    GenerationSettings,
    position_limit,
    read_generation_config,
    settings_for,
)
from secbatch.models.load import load_config, load_model, load_tokenizer
from secbatch.tasks.chat_history import ChatRenderer, Rendered, Turn
from secbatch.tasks.chat_reply import Reply, clean, row_seed

if TYPE_CHECKING:
    from secbatch.job import Chat
    from secbatch.models.device import Compute
    from secbatch.models.generation import Generator
    from secbatch.models.resolved import ResolvedModel

# Raised by hand when the same model and settings give other answers than before.
CODE_VERSION = 1


class ChatModel:
    """Renders conversations, generates, decodes. Cheap to make; `load` brings the weights."""

    def __init__(self, spec: "Chat", resolved: "ResolvedModel", compute: "Compute") -> None:
        """Raises ModelError or JobError when the model cannot chat as `spec` wants it to."""
        self._spec, self._resolved, self._compute = spec, resolved, compute
        config = load_config(resolved)
        tokenizer = load_tokenizer(resolved)
        self.hf = tokenizer.hf
        self.encoder_decoder = bool(config.is_encoder_decoder)
        positions = position_limit(config) if self.encoder_decoder else tokenizer.max_length
        generation = read_generation_config(resolved.folder, config)
        self.settings: GenerationSettings = settings_for(
            generation, spec.generation, positions, self.encoder_decoder, resolved.name
        )
        limit = tokenizer.max_length if self.encoder_decoder else self._prompt_limit(tokenizer.max_length)
        self._renderer = ChatRenderer(self.hf, limit, self.encoder_decoder, spec.prompt, spec.system, resolved.name)
        self.notices: tuple[str, ...] = compute.notices  # what a user should know; complete after `load`
        self._generator: Generator | None = None
        self.tokens = self.padding = 0  # positions worked on so far

    def _prompt_limit(self, positions: int) -> int:
        """Positions for the prompt of a decoder-only model, which shares them with its answer."""
        settings = self.settings
        if settings.max_new_tokens is not None:
            return positions - settings.max_new_tokens
        both = min(positions, settings.max_length or positions)
        return both - min(DEFAULT_NEW_TOKENS, both // 2)

    def fingerprint(self) -> str:
        """Hex digest of all that decides an answer."""
        resolved = self._resolved
        facts = {
            "code": CODE_VERSION,
            "prompt": self._spec.prompt,
            "system": self._spec.system,
            "settings": dataclasses.asdict(self.settings),
            "model": [resolved.name, resolved.hub_id, resolved.revision],
            "weights": resolved.weights_hash,
            "tokenizer": resolved.tokenizer_hash,
            "config": hashlib.sha256((resolved.folder / "config.json").read_bytes()).hexdigest(),
            "template": self.hf.chat_template,
            "precision": self._compute.dtype,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        from secbatch.models.generation import Generator

        kind: Any = "seq2seq" if self.encoder_decoder else "causal"
        loaded = load_model(self._resolved, kind, self._compute)
        self.notices = (*self._compute.notices, *loaded.notices)
        self._generator = Generator(loaded.model, self.settings, tokenizer=self.hf, owned=True)

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Rendered]:
        """Token ids of conversations, each of which ends with an open question."""
        return self._renderer.render(conversations)

    def reply(self, rendered: Sequence[Rendered], rows: Sequence[str]) -> list[Reply]:
        """Answers; `rows` names the row of each conversation, which seeds its sampling.

        Equal prompts are answered once, except when answers are sampled.
        """
        from secbatch.models.generation import Prompt

        assert self._generator is not None, "load() comes first"
        places: dict[object, int] = {}  # what makes an answer -> its place in `prompts`
        prompts: list[Prompt] = []
        wanted: list[int | None] = []
        for one, row in zip(rendered, rows, strict=True):
            if one.error is not None:
                wanted.append(None)
                continue
            seed = row_seed(self.settings.seed, row) if self.settings.do_sample else 0
            key = (tuple(one.tokens), seed)
            if key not in places:
                places[key] = len(prompts)
                prompts.append(Prompt(one.tokens, seed))
            wanted.append(places[key])
        made = self._generator.generate(prompts)
        self.tokens, self.padding = self.tokens + made.tokens, self.padding + made.padding
        answers = [answer.tokens for answer in made.answers]
        texts = [clean(text) for text in self.hf.batch_decode(answers, skip_special_tokens=True)]
        replies = []
        for one, place in zip(rendered, wanted, strict=True):
            error = one.error if place is None else made.answers[place].error
            if place is None or error is not None:
                replies.append(Reply(None, 0, one.truncated, one.kept, error))
            else:
                count = len(made.answers[place].tokens)
                replies.append(Reply(texts[place], count, one.truncated, one.kept))
        return replies
