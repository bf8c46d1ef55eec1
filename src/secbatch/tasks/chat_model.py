"""A chat model with everything around it: conversations in, answers as clean text out."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from secbatch.models.generation_settings import DEFAULT_NEW_TOKENS
from secbatch.models.model_kinds import check_kind
from secbatch.tasks.chat_history import ChatRenderer, Rendered, Turn
from secbatch.tasks.chat_reply import Reply
from secbatch.tasks.text_generator import TextGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from secbatch.models.device import Compute
    from secbatch.models.resolved import ResolvedModel
    from secbatch.task_specs import Chat

# Raised by hand when the same model and settings give other answers than before.
CODE_VERSION = 1


class ChatModel(TextGenerator):
    """Renders conversations, generates, decodes. Cheap to make; `load` brings the weights."""

    def __init__(
        self, spec: "Chat", resolved: "ResolvedModel", compute: "Compute", scratch: "Path | None" = None
    ) -> None:
        """`scratch`: see `TextGenerator`.

        Raises ModelError or JobError when the model cannot chat as `spec` wants it to.
        """
        super().__init__(spec.generation, resolved, compute, scratch, spec.runtime)
        check_kind(resolved, self.config, "seq2seq" if self.encoder_decoder else "causal")
        self._spec = spec
        positions = self.tokenizer.max_length
        limit = positions if self.encoder_decoder else self._prompt_limit(positions)
        self._renderer = ChatRenderer(self.hf, limit, self.encoder_decoder, spec.prompt, spec.system, resolved.name)

    def _prompt_limit(self, positions: int) -> int:
        """Positions for the prompt of a decoder-only model, which shares them with its answer."""
        settings = self.settings
        if settings.max_new_tokens is not None:
            return positions - settings.max_new_tokens
        both = min(positions, settings.max_length or positions)
        return both - min(DEFAULT_NEW_TOKENS, both // 2)

    def fingerprint(self) -> str:
        """Hex digest of all that decides an answer."""
        facts = {
            **self.facts(),
            "code": CODE_VERSION,
            "prompt": self._spec.prompt,
            "system": self._spec.system,
            "template": self.hf.chat_template,
        }
        if trims := self._renderer.trims(self._spec.conversation is not None):
            facts["trims"] = trims
        if self._spec.conversation is not None and self._renderer.after_thoughts is not None:
            facts["after_thoughts"] = self._renderer.after_thoughts
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Rendered]:
        """Token ids of conversations, each of which ends with an open question."""
        return self._renderer.render(conversations)

    def reply(self, rendered: Sequence[Rendered], rows: Sequence[str]) -> list[Reply]:
        """Answers; `rows` names the row of each conversation, which seeds its sampling.

        Equal prompts are answered once in a run, except when answers are sampled.
        """
        open_ = [place for place, one in enumerate(rendered) if one.error is None]
        written = dict(
            zip(open_, self.write([rendered[at].tokens for at in open_], [rows[at] for at in open_]), strict=True)
        )
        replies = []
        for place, one in enumerate(rendered):
            made = written.get(place)
            if made is None or made.error is not None:
                error = one.error if made is None else made.error
                replies.append(Reply(None, 0, one.truncated, one.kept, error))
            else:
                replies.append(Reply(made.text, made.tokens, one.truncated, one.kept))
        return replies
