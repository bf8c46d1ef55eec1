"""Chat through an OpenAI-compatible endpoint: the same task, with a server in the model's place."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from secbatch.errors import ModelError
from secbatch.models.generation_endpoint import Completion, Endpoint
from secbatch.models.generation_settings import DEFAULT_NEW_TOKENS
from secbatch.tasks.chat_history import Turn
from secbatch.tasks.chat_reply import Reply
from secbatch.tasks.generated_text import clean, row_seed

if TYPE_CHECKING:
    from secbatch.job import Chat

# Raised by hand when the same model and settings give other answers than before.
CODE_VERSION = 1


@dataclass(frozen=True)
class Asked:
    """A conversation that ends with an open question."""

    turns: tuple[Turn, ...]

    @property
    def kept(self) -> int:
        return len(self.turns)  # what does not fit is seen when the server is asked


class EndpointChat:
    """What ChatModel is to the chat task, without weights: the server has them."""

    def __init__(self, spec: "Chat") -> None:
        """Raises ModelError when the key, or what requests are made with, is not there."""
        assert spec.endpoint is not None
        self._spec = spec
        if importlib.util.find_spec("httpx2") is None:
            raise ModelError("endpoint needs the package httpx2; install it with pip install 'secbatch[endpoint]'")
        self._key()  # better now than after the input has been read
        self._endpoint = Endpoint(
            spec.endpoint, spec.model, spec.concurrency, spec.timeout, spec.retries, spec.api_key_env
        )
        self.notices = self._notices()
        self.tokens = self.padding = 0

    def _key(self) -> str | None:
        """The key, read anew each time so that it is in nothing that is pickled or written."""
        name = self._spec.api_key_env
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise ModelError(f"the environment variable {name}, which api_key_env names, is not set")
        if not (key.isascii() and key.isprintable()):
            raise ModelError(f"the environment variable {name}, which api_key_env names, holds no key: odd characters")
        return key

    def _notices(self) -> tuple[str, ...]:
        address = urlsplit(self._spec.endpoint or "")
        near = address.hostname in ("localhost", "127.0.0.1", "::1")
        if address.scheme == "http" and not near and self._spec.api_key_env:
            return (f"the key goes to {self._spec.endpoint} unencrypted; use https",)
        return ()

    def fingerprint(self) -> str:
        """Hex digest of what decides an answer; where the server stands, and the key, do not."""
        facts = {
            "code": CODE_VERSION,
            "endpoint": self._body([], 0),
            "prompt": self._spec.prompt,
            "seed": self._spec.generation.seed if self._spec.generation.do_sample else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        pass  # nothing to bring: the server has the weights

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Asked]:
        return [Asked(tuple(turns)) for turns in conversations]

    def reply(self, asked: Sequence[Asked], rows: Sequence[str]) -> list[Reply]:
        """Answers; `rows` names the row of each conversation, which seeds its sampling.

        Equal conversations are asked once, except when answers are sampled. Raises ModelError when the endpoint
        as a whole does not work.
        """
        places: dict[tuple[tuple[Turn, ...], int], int] = {}
        for one, row in zip(asked, rows, strict=True):
            places.setdefault((one.turns, self._seed(row)), len(places))
        distinct = self._ask(list(places))
        return [distinct[places[one.turns, self._seed(row)]] for one, row in zip(asked, rows, strict=True)]

    def _ask(self, questions: list[tuple[tuple[Turn, ...], int]]) -> list[Reply]:
        key, replies = self._key(), [Reply(None, None, False, 0)] * len(questions)
        kept = {place: len(turns) for place, (turns, _) in enumerate(questions)}
        due = list(kept)
        while due:
            bodies = [self._body(questions[place][0][-kept[place] :], questions[place][1]) for place in due]
            done = self._endpoint.complete(bodies, key)
            again = []
            for place, completion in zip(due, done, strict=True):
                if completion.too_long and kept[place] > 1:
                    kept[place] -= 1  # the oldest turn goes, as with a model at hand
                    again.append(place)
                    continue
                truncated = kept[place] < len(questions[place][0])
                replies[place] = self._replied(completion, truncated, kept[place])
            due = again
        return replies

    def _replied(self, completion: Completion, truncated: bool, kept: int) -> Reply:
        self.tokens += (completion.prompt_tokens or 0) + (completion.new_tokens or 0)
        if completion.text is None:
            return Reply(None, None, truncated, kept, completion.error)
        return Reply(clean(completion.text), completion.new_tokens, truncated, kept)

    def _seed(self, row: str) -> int:
        # 31 bits: what every server takes
        return row_seed(self._spec.generation.seed, row) >> 32 if self._spec.generation.do_sample else 0

    def _body(self, turns: Sequence[Turn], seed: int) -> dict[str, Any]:
        spec, generation = self._spec, self._spec.generation
        messages = [{"role": "system", "content": spec.system}] if spec.system is not None else []
        for turn in turns:
            messages.append({"role": "user", "content": spec.prompt.replace("{text}", turn.question)})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": turn.answer})
        body: dict[str, Any] = {"model": spec.model, "messages": messages}
        body["max_tokens"] = generation.max_new_tokens or DEFAULT_NEW_TOKENS
        if not generation.do_sample:
            return body | {"temperature": 0}
        body |= {"seed": seed}
        for name in ("temperature", "top_p"):
            if getattr(generation, name) is not None:
                body[name] = getattr(generation, name)
        return body
